"""What one does with data before a model sees them: check them, look at them, convert them, draw a sample."""

from evertune.tools.data.check import CheckResult, check
from evertune.tools.data.convert import ConversionResult, convert, sample

__all__ = ["CheckResult", "ConversionResult", "check", "convert", "sample"]
