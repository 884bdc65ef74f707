"""Context extension: a checkpoint → one with longer context, step by step, each behind two gates."""
