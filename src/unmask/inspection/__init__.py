"""What there is: models, runs and corpora in a few lines, and the machine that they are used on."""

from unmask.inspection.doctor import doctor
from unmask.inspection.info import info
from unmask.inspection.plots import plot_schedules, plot_trajectory

__all__ = ["doctor", "info", "plot_schedules", "plot_trajectory"]
