"""What there is: models, runs and corpora in a few lines, and the machine that they are used on."""

from unmask.inspection.doctor import doctor
from unmask.inspection.info import info

__all__ = ["doctor", "info"]
