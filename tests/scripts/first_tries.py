"""The first things that users of transformers try; each line is one of them."""

import sys

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModel, AutoTokenizer, TrainingArguments, pipeline

from mtsbert import MTSBertModel, MTSBertTrainer, MultiTaskCollator, infer_tasks


encoder, output = sys.argv[1:]
rows = [{"text": "Ada Perez joins Nimbus Labs", "topic": "Business"}, {"text": "Oslo beat Lima", "topic": "Sports"}]
news = Dataset.from_list(rows * 4)
tasks = infer_tasks(news, {"topic": "sequence_classification"})
model = MTSBertModel.from_encoder(encoder, tasks=tasks)
tokenizer = AutoTokenizer.from_pretrained(encoder)
plain = TrainingArguments(output, max_steps=2, eval_strategy="steps", eval_steps=1)
trainer = MTSBertTrainer(
    model,
    plain,
    data_collator=MultiTaskCollator(tokenizer, tasks),
    train_dataset=news,
    eval_dataset=news,
    compute_metrics=lambda outputs: {"rows": float(len(outputs.predictions["topic"]))},
    optimizers=(torch.optim.AdamW(model.parameters(), lr=1e-3), None),
)
trainer.train()
assert trainer.evaluate()["eval_rows"] == 8
predicted = trainer.predict(news)
assert predicted.predictions["topic"].shape == (8, 2)
assert np.isclose(
    (predicted.predictions["topic"].argmax(-1) == predicted.label_ids["topic"]).mean(),
    predicted.metrics["test_topic_accuracy"],
)
trainer.save_model()
for loaded in (MTSBertModel.from_pretrained(output), AutoModel.from_pretrained(output, trust_remote_code=True)):
    answer = pipeline("multi-task", model=loaded.eval(), tokenizer=tokenizer)(
        "Oslo beat Lima", return_embeddings="numpy"
    )
    assert answer["embedding"].shape == (32,), answer
search = MTSBertTrainer(
    model_init=lambda: MTSBertModel.from_encoder(encoder, tasks=tasks),
    args=plain,
    train_dataset=news,
    eval_dataset=news,
)
space = {"learning_rate": (1e-5, 1e-2)}
best = search.hyperparameter_search(
    lambda trial: {name: trial.suggest_float(name, *ends, log=True) for name, ends in space.items()}, n_trials=2
)
sys.stdout.write(f"all of it works, and the best learning rate was {best.hyperparameters['learning_rate']:.1g}\n")
