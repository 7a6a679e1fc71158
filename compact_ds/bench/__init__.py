"""`bench step`: one optimizer step taken apart, and beside other ways to train on the same rationales."""
