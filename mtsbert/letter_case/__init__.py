"""
Capital letters for an encoder that was pretrained without them.

The vocabulary of its tokenizer gets its words a second and a third time, capitalised and in capitals (`tokenizer.py`),
and the embedding of such a word is that of the word itself plus a vector that all capitalised words share, or another
one that all words in capitals share (`embedding.py`). Both begin as zeros: the model starts as the encoder that it
comes from. Checkpoints are plain: a tokenizer and a table of embeddings, both larger than before.
"""
