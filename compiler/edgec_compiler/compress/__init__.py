"""Between import and conversion: pruning, distillation, clustering, training for quantisation."""
