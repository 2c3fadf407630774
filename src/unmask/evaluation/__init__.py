"""Measures of a model. Each is a function of it that returns a `Report`: figures with standard errors, and a protocol.

report = unmask.evaluation.likelihood(model, draws=4)
print(report)
report.record("runs/digits")
"""

from unmask.evaluation.breakdown import Breakdown
from unmask.evaluation.frechet import frechet
from unmask.evaluation.generative import generative
from unmask.evaluation.judge import Judge
from unmask.evaluation.likelihood import likelihood
from unmask.evaluation.molecules import molecules
from unmask.evaluation.nelbo import Likelihood, evaluate
from unmask.evaluation.statistics import Extractor
from unmask.evaluation.study import study_precision, study_samplers
from unmask.evaluation.unknown_length import LengthPosterior, infill_unknown_length, length_posterior
from unmask.evaluation.zeroshot import zeroshot
from unmask.report import Figure, Report

__all__ = [
    "Breakdown",
    "Extractor",
    "Figure",
    "Judge",
    "LengthPosterior",
    "Likelihood",
    "Report",
    "evaluate",
    "frechet",
    "generative",
    "infill_unknown_length",
    "length_posterior",
    "likelihood",
    "molecules",
    "study_precision",
    "study_samplers",
    "zeroshot",
]
