import sys

from datasets import Dataset
from transformers import pipeline

from mtsbert import MTLTrainingArguments, MTSBertModel, MTSBertTrainer, infer_tasks


encoder, output = sys.argv[1:]
rows = [
    ("Ada Perez joins Nimbus Labs", "Business", [{"start": 0, "end": 9, "label": "PERSON"}]),
    ("Oslo beat Lima in the final", "Sports", None),
    ("Nimbus Labs opens in Lima", None, [{"start": 21, "end": 25, "label": "GPE"}]),
    ("The final ends without a goal", "Sports", []),
]
news = Dataset.from_list([{"text": text, "topic": topic, "ner": entities} for text, topic, entities in rows])
tasks = infer_tasks(news, {"topic": "sequence_classification", "ner": "token_classification"})
model = MTSBertModel.from_encoder(encoder, tasks=tasks)
arguments = MTLTrainingArguments(output, num_train_epochs=2, per_device_train_batch_size=2, precision="fp32")
trainer = MTSBertTrainer(model, arguments, train_dataset=news, eval_dataset=news)
trainer.train()
metrics = trainer.evaluate()
predicted = trainer.predict(news.remove_columns(["topic", "ner"]))
trainer.save_model()
again = pipeline("multi-task", model=output, trust_remote_code=True)
label = again("Lima hosts the race")["topic"]["label"]
sys.stdout.write(f"{metrics['eval_composite']:.3f} {predicted.predictions['topic'].shape} {label}\n")
