"""What one does with data before a model sees them: check them, look at them, convert them, draw a sample."""

from evertune.tools.data.check import Checked, check
from evertune.tools.data.convert import Written, convert, sample

__all__ = ["Checked", "Written", "check", "convert", "sample"]
