"""All figures of a report, in their order."""
from .attention_sections import (
    distance_section,
    entropy_section,
    impact_section,
    maps_section,
    offset_section,
    position_section,
    ring_section,
)
from .feature_sections import (
    cka_section,
    field_section,
    localization_section,
    norms_section,
    rollout_section,
    single_token_section,
)

#: In the order of the page. Each takes the cases and the view, and returns None where no case has the measure.
SECTIONS = (position_section, distance_section, entropy_section, ring_section, offset_section, impact_section,
            maps_section, cka_section, norms_section, field_section, rollout_section, localization_section,
            single_token_section)
