"""The search for the variant that keeps the budget, and what each layer has to do with it."""
