"""What was expected of a GPU before one was at hand.

Nothing here was measured. Times are roofline estimates for an A100 and an H100, ± 30 %, with 2.5 µs for each launch.
Where two numbers stand they are for the A100 / the H100.
"""

#: Estimate of each subject of the suite "gpu", by part and subject: milliseconds, unless the text says otherwise.
ESTIMATES: dict[tuple[str, str], str] = {
    # The estimate of what a fused kernel saves.
    ('position tiny', 'torch'): '1 to 3',
    ('position small', 'torch'): '1 to 3',
    ('position medium', 'torch'): '1 to 3',
    # Of a state of the code that launched a kernel for each query.
    ('position, 64 x 64 tokens, one block', 'torch'): 'below 375',
    ('position, 64 x 64 tokens, one block', 'Triton'): '10',
    # The gradient of the mask, which the kernel makes for each image, in half precision.
    ('attention tiny', 'trainable mask'): '0.7 above the mask without gradient',
    ('attention small', 'trainable mask'): '1.4 above the mask without gradient',
    ('attention medium', 'trainable mask'): '2 above the mask without gradient',
    # 45 / 25, 82 / 43 and 129 / 78 of them are work, and the rest launches.
    ('step tiny', 'float16'): '51 / 31 and 3.5 GiB',
    ('step small', 'float16'): '88 / 50 and 5.8 GiB',
    ('step medium', 'float16'): '136 / 85 and 9 GiB',
    ('optimizer tiny', 'a group for each parameter'): '36',
    # Seen by others on Hopper with 588 and 592 columns.
    ('matrix product, 468 columns', '468'): '3.5 x on an H100',
    ('matrix product, 540 columns', '540'): '3.5 x on an H100',
    ('matrix product, 684 columns', '684'): '3.5 x on an H100',
    # 200 is for a whole detector.
    ('dense tiny, 64 x 64 tokens', 'windows'): 'below 200',
    ('dense tiny, 64 x 64 tokens', 'four global blocks'): 'below 1,500 above windows',
}
