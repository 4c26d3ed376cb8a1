"""What methods train with: the training loop, distillation, LoRA, closed-form edits, attention
capture.

Imports: contract, models.
"""
