// A multi-task model in the browser. Nothing leaves the page: the model and the runtime lie beside this file.
//
//     import { load } from "./mtsbert.js";
//     const ask = await load();
//     await ask("Oslo beat Lima in the final");   // as the pipeline in Python answers
//     await ask("Oslo beat Lima", "Lima lost");   // also how the two relate
//     ask.tasks;                                  // name → settings

import * as ort from "./onnxruntime/ort.wasm.min.js";
import { cosine, labelsOf, logSoftmax, probabilitiesOf } from "./answers.js";
import { entitiesOf } from "./entities.js";
import { Tokenizer } from "./tokenizer.js";

export async function load() {
  const here = (name) => new URL(name, import.meta.url).href;
  const runtime = here("./onnxruntime/ort-wasm-simd-threaded");
  ort.env.wasm.wasmPaths = { mjs: `${runtime}.js`, wasm: `${runtime}.wasm` };
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  const settings = await (await fetch(here("./browser.json"))).json();
  const texts = await ort.InferenceSession.create(here("./model.onnx"));
  const pairs = settings.has_pairs ? await ort.InferenceSession.create(here("./pairs.onnx")) : null;
  const model = new Model(settings, texts, pairs);
  return Object.assign((text, pair) => model.answer(text, pair), { tasks: settings.tasks });
}

class Model {
  constructor(settings, texts, pairs) {
    this.tokenizer = new Tokenizer(settings.tokenizer);
    this.tasks = Object.entries(settings.tasks);
    this.pairTypes = settings.pair_types;
    this.normalize = settings.normalize;
    this.texts = texts;
    this.pairs = pairs;
  }

  async answer(text, pair) {
    const answer = await this.#read(text);
    if (pair === undefined) return answer;
    const { embedding } = await this.#read(pair);
    return { ...answer, pair_embedding: embedding, ...(await this.#compare(answer.embedding, embedding)) };
  }

  async #read(text) {
    const characters = Array.from(text);
    const windows = this.tokenizer.windows(characters);
    const outputs = [];
    for (const window of windows) outputs.push(await this.#run(window));
    const embedding = meanOf(outputs.map((output) => Array.from(output.sentence_embedding.data)));
    const answer = { embedding: this.normalize ? ofLength1(embedding) : embedding };
    for (const [task, settings] of this.tasks) {
      if (this.pairTypes.includes(settings.type)) continue;
      const logits = outputs.map((output) => rowsOf(output[`logits.${task}`]));
      if (settings.type === "token_classification") {
        const before = this.tokenizer.settings.prefix.length;
        const tokens = windows.flatMap(({ own, tokens }) => own.map((index) => tokens[index]));
        const scores = windows.flatMap(({ own }, row) => own.map((index) => logSoftmax(logits[row][before + index])));
        answer[task] = entitiesOf(characters, tokens, scores, settings);
      } else {
        answer[task] = labelsOf(settings, meanOf(logits.map((rows) => probabilitiesOf(settings, rows[0]))));
      }
    }
    return answer;
  }

  #run({ ids }) {
    const whole = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    return this.texts.run({ input_ids: whole(ids), attention_mask: whole(ids.map(() => 1)) });
  }

  async #compare(u, v) {
    const answers = {};
    const row = (values) => new ort.Tensor("float32", Float32Array.from(values), [1, values.length]);
    const outputs = this.pairs && (await this.pairs.run({ u: row(u), v: row(v) }));
    for (const [task, settings] of this.tasks) {
      if (settings.type === "pair_classification") {
        const logits = Array.from(outputs[`logits.${task}`].data);
        answers[task] = labelsOf(settings, probabilitiesOf(settings, logits));
      } else if (this.pairTypes.includes(settings.type)) {
        answers[task] = { score: cosine(u, v) };
      }
    }
    return answers;
  }
}

// A tensor of the shape (1, T, K) or (1, C) as rows.
function rowsOf({ data, dims }) {
  const size = dims[dims.length - 1];
  const rows = [];
  for (let start = 0; start < data.length; start += size) rows.push(Array.from(data.slice(start, start + size)));
  return rows;
}

function meanOf(rows) {
  return rows[0].map((_, column) => rows.reduce((sum, row) => sum + row[column], 0) / rows.length);
}

function ofLength1(values) {
  const length = Math.max(Math.sqrt(values.reduce((sum, value) => sum + value * value, 0)), 1e-12);
  return values.map((value) => value / length);
}
