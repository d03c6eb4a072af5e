"""`make bench`: speed against an honest baseline, both sides in the same run."""
