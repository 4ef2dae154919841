"""The Trainer and its components. Imports everything except commands.

Private methods of transformers' Trainer that are overridden here because there is no public hook, and the reasons:

- `_get_dataloader`: DataLoader workers ignore the signals that stop a run
- `_get_grad_norm`: the gradient norm is checked before the optimizer uses the gradients
- `_get_train_sampler`: the order of rows depends only on seed and epoch
- `_load_best_model`: puts back the adapters (LoRA) that the merged weights of a checkpoint do not show.
- `_load_from_checkpoint`: the same, where a run is resumed.
- `_maybe_log_save_evaluate`: a run that is told to stop first finishes everything that is due after a step
- `_push_from_checkpoint`: every push can be loaded, with code, tokenizer and the files of sentence-transformers
- `_run_epoch`: a run that had already ended does not take another step when it is resumed
- `_save`: writes adapters (LoRA) alone, for the checkpoint that they belong to, if the run asks for that.
- `_save_checkpoint`: a checkpoint is either complete or does not exist
- `_save_rng_state`: the main process writes the random states of all ranks, so that the last file marks a checkpoint
  as complete
"""
