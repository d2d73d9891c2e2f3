"""Runs a bundle: raw input to final output, exactly as its manifest says.

The compiler judges with it, the device serves with it; there is no second way.
"""

from edgec_runtime.acceptance import AcceptanceResult, check_acceptance
from edgec_runtime.bench import Latency, Measurement, measure
from edgec_runtime.classes import Prediction, agreement_by_row
from edgec_runtime.data import Data, load_data
from edgec_runtime.drift import baseline, observe
from edgec_runtime.errors import (
    DataError,
    InputError,
    ModelError,
    OutputError,
    RunError,
    RuntimeMissingError,
    SpecError,
    StepError,
    UnsupportedError,
)
from edgec_runtime.evaluate import Evaluation, agreement, evaluate
from edgec_runtime.golden import GoldenResult, check_golden, record_golden
from edgec_runtime.pipeline import (
    FEATURES,
    Pipeline,
    features_of,
    load_pipeline,
    open_pipeline,
    unsupported,
)
from edgec_runtime.processing import Postprocessing, Preprocessing
from edgec_runtime.selftest import Acceptance, SelfTestResult, run_selftest
from edgec_runtime.session import ModelTensor, Session, installed_runtimes, load_session

__all__ = [
    "FEATURES",
    "Acceptance",
    "AcceptanceResult",
    "Data",
    "DataError",
    "Evaluation",
    "GoldenResult",
    "InputError",
    "Latency",
    "Measurement",
    "ModelError",
    "ModelTensor",
    "OutputError",
    "Pipeline",
    "Postprocessing",
    "Prediction",
    "Preprocessing",
    "RunError",
    "RuntimeMissingError",
    "SelfTestResult",
    "Session",
    "SpecError",
    "StepError",
    "UnsupportedError",
    "agreement",
    "agreement_by_row",
    "baseline",
    "check_acceptance",
    "check_golden",
    "evaluate",
    "features_of",
    "installed_runtimes",
    "load_data",
    "load_pipeline",
    "load_session",
    "measure",
    "observe",
    "open_pipeline",
    "record_golden",
    "run_selftest",
    "unsupported",
]
