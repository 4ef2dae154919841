"""The Trainer and what it is made of. Imports everything but commands.

Private methods of transformers' Trainer that are overridden here, for want of a public one, and what for:

- `_get_dataloader`: workers that ignore the signals which stop a run
- `_get_grad_norm`: the norm of the gradients is looked at before the optimizer uses them
- `_get_train_sampler`: an order that follows from seed and epoch alone
- `_maybe_log_save_evaluate`: a run that is told to stop does so once everything due after a step is done
- `_push_from_checkpoint`: every push can be loaded: code, tokenizer and the files of sentence-transformers go along
- `_run_epoch`: a run that had ended takes no further step when it is resumed
- `_save_checkpoint`: a checkpoint is whole or not there
- `_save_rng_state`: the main process writes the random states of all, so that a checkpoint's last file is its sign
"""
