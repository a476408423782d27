"""What the two small worlds share: language, questions, verdicts, splits, and the seam that stages see."""
