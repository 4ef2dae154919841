// Finds the entities of a text: the best legal sequence of BIO tags, as `entities_mtsbert.py` does.

import { cutOf } from "./answers.js";

const EPSILON = 1e-6; // how near to 0 and 1 a probability may come
const MARK = /^\p{M}$/u; // what a tokenizer may drop after a character that it belongs to
const MOST = Math.fround(1 - EPSILON); // in Python, they have 32 bits, which matters next to 1

// The entities of a text.
//   characters: its code points
//   tokens: [{start, end}] of every position
//   logProbabilities: for every position, those of the tags
//   settings: of the token task
export function entitiesOf(characters, tokens, logProbabilities, settings) {
  const tags = bestTags(logProbabilities, settings.labels);
  const found = [];
  let open = null;
  let reached = 0;
  tags.forEach((likeliest, position) => {
    const { start, end } = tokens[position];
    let tag = likeliest;
    if (start < reached) tag = settings.labels.indexOf(open ? `I-${open.label}` : "O"); // the character has its tag
    const label = settings.labels[tag];
    if (label === "O") {
      open = null;
    } else if (label.startsWith("B-") || open?.label !== label.slice(2)) {
      tag = settings.labels.indexOf(`B-${label.slice(2)}`);
      open = { label: label.slice(2), start, end, probabilities: [] };
      found.push(open);
    }
    if (open) {
      open.end = Math.max(open.end, end);
      open.limit = tokens[position + 1]?.start ?? characters.length;
      open.probabilities.push(Math.exp(logProbabilities[position][tag]));
    }
    reached = Math.max(reached, end);
  });
  for (const entity of found) {
    while (entity.end < entity.limit && MARK.test(characters[entity.end])) entity.end++;
  }
  return found
    .map(({ label, start, end, probabilities }) => ({
      label, start, end, text: characters.slice(start, end).join(""), score: scoreOf(probabilities, settings.platt),
    }))
    .filter(({ label, score }) => score >= cutOf(settings, label, settings.min_score ?? 0));
}

function scoreOf(probabilities, platt) {
  const mean = probabilities.reduce((sum, one) => sum + one, 0) / probabilities.length;
  if (!platt) return mean;
  const inside = Math.min(Math.max(mean, EPSILON), MOST);
  return 1 / (1 + Math.exp(-(platt[0] * Math.log(inside / (1 - inside)) + platt[1])));
}

function bestTags(logProbabilities, labels) {
  const mayFollow = labels.map((before) =>
    labels.map((tag) => !tag.startsWith("I-") || before === tag || before === `B-${tag.slice(2)}`),
  );
  let best = labels.map((label) => (label === "O" ? 0 : -Infinity));
  const cameFrom = [];
  for (const scores of logProbabilities) {
    const origins = labels.map((_, tag) => {
      let origin = -1;
      for (let before = 0; before < labels.length; before++) {
        if (mayFollow[before][tag] && (origin < 0 || best[before] > best[origin])) origin = before;
      }
      return origin;
    });
    best = origins.map((origin, tag) => best[origin] + scores[tag]);
    cameFrom.push(origins);
  }
  const tags = [];
  let tag = best.indexOf(Math.max(...best));
  for (const origins of cameFrom.reverse()) {
    tags.unshift(tag);
    tag = origins[tag];
  }
  return tags;
}
