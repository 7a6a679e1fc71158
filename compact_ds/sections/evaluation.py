"""Settings of `evaluation`."""

from __future__ import annotations

from pydantic import Field

from compact_ds.sections.section import Section


class EvaluationConfig(Section):
    """What is measured on held-out questions, and when."""

    every: int = Field(0, ge=0)
    """Evaluate every so many steps; 0 only at the end."""
    limit: int | None = Field(None, ge=1)
    """Use only the first so many held-out questions."""
    batch_size: int = Field(32, ge=1)
    """Questions generated at a time."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest generated rationale."""

    stops_at_answer: bool = True
    """End a generated text with its first complete answer sentence; what a student writes after it counts for nothing."""
    stop: list[str] = Field(default_factory=list)
    """Strings before which a generated text ends."""
    before: bool = True
    """Evaluate the untrained student too; runs that start from the same one need it once."""
    rationale_loss: bool = False
    """Also the loss of the held-out rationales, right and wrong ones apart; it costs a forward pass over all of them."""
    retention: list[str] = Field(default_factory=list)
    """Files of what is not trained on, measured at every evaluation: multiple-choice questions in the schema, or text."""
    retention_limit: int | None = Field(None, ge=1)
    """Use only the first so many questions, or pieces of some 2,000 characters, of each of these files."""
