// The page: asks the model, and shows its answers. Texts become text nodes, never HTML.

import { cosine } from "./answers.js";

const find = (id) => document.getElementById(id);

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

// The answer, and the scores of all labels.
function labelled({ label, labels, scores }) {
  const rows = Object.entries(scores).sort(([, first], [, second]) => second - first);
  const chosen = labels ? labels.join(", ") || "none" : (label ?? "not sure");
  const table = element("table", element("caption", chosen));
  for (const [label, score] of rows) {
    const meter = element("meter");
    meter.value = score;
    table.append(element("tr", element("th", label), element("td", meter, ` ${(100 * score).toFixed(1)} %`)));
  }
  return table;
}

function marked(text, spans) {
  const characters = Array.from(text);
  const shown = element("p");
  shown.className = "text";
  let end = 0;
  for (const span of spans) {
    const mark = element("mark", span.text, element("small", span.label));
    mark.title = `${span.start} to ${span.end}, score ${span.score.toFixed(3)}`;
    shown.append(characters.slice(end, span.start).join(""), mark);
    end = span.end;
  }
  shown.append(characters.slice(end).join(""));
  return shown;
}

function shown(text, answer, { type, score_range }) {
  if (Array.isArray(answer)) return marked(text, answer);
  if (answer.scores) return labelled(answer);
  if (type !== "pair_similarity") return element("p", answer.score.toFixed(3));
  const [lowest, highest] = score_range;
  const score = lowest + (highest - lowest) * answer.score;
  return element("p", `${Math.min(Math.max(score, lowest), highest).toFixed(2)} of ${highest}`);
}

function show(text, answers, tasks) {
  const { embedding, pair_embedding: other, ...ofTasks } = answers;
  const parts = Object.entries(ofTasks).map(([task, answer]) => [element("h2", task), shown(text, answer, tasks[task])]);
  if (other) parts.push([element("h2", "cosine of the two embeddings"), element("p", cosine(embedding, other).toFixed(3))]);
  find("answers").replaceChildren(...parts.flat());
}

async function start() {
  find("error").textContent = "";
  const { load } = await import("./mtsbert.js");
  const ask = await load();
  const button = find("answer");
  find("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    find("error").textContent = "";
    try {
      const [text, pair] = [find("text").value, find("pair").value];
      show(text, await ask(text, pair.trim() ? pair : undefined), ask.tasks);
    } catch (error) {
      find("error").textContent = `The model could not answer: ${error.message}`;
    }
    button.disabled = false;
  });
  button.textContent = "Answer";
  button.disabled = false;
}

start().catch((error) => {
  find("answer").textContent = "No model";
  find("error").textContent = `The model could not be loaded: ${error.message}`;
});
