"""From the losses of the tasks to the gradient of an optimizer step. Imports everything to the left of training."""
