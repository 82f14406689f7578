"""Rater groups: who agrees with whom about safety, and is it more than chance (GRASP)?

ratings -> axes -> count tables -> cohesion -> shuffles and draws -> results (``grasp``)
"""

from peftlab.audits.raters.grasp import grasp
from peftlab.audits.raters.models import compare_models
from peftlab.audits.raters.options import GraspOptions
from peftlab.audits.raters.plan import plan_recruiting
from peftlab.audits.raters.ratings import Ratings

__all__ = ["GraspOptions", "Ratings", "compare_models", "grasp", "plan_recruiting"]
