"""compact_ds: several teachers' written rationales distilled into one student, weighted by what the student makes of them."""

__version__ = "0.1.0"
