// Tokenizes as BERT does, with the place of every token in its text, which no tokenizer library on npm gives.
// A text is an array of code points here, so that places count characters as Python does.

const CONTROL = /^(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}\p{Cs}]$/u;
const SPACE = /^\p{White_Space}$/u;
const MARK = /\p{Mn}/gu;
const PUNCTUATION = /^[\p{P}!-/:-@[-`{-~]$/u;
const CHINESE = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f], [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf],
  [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
];

export class Tokenizer {
  // settings: what `mtsbert/exports/web.py` writes about the tokenizer.
  constructor(settings) {
    this.settings = settings;
    this.vocabulary = new Map(Object.entries(settings.vocabulary));
    this.added = Object.entries(settings.added).map(([content, id]) => [Array.from(content), id]);
    this.added.sort(([first], [second]) => second.length - first.length); // the longest that fits
  }

  // The tokens of a text, without special ones: [{id, start, end}].
  tokens(characters) {
    const found = [];
    let first = 0;
    for (let place = 0; place < characters.length; place++) {
      for (const [content, id] of this.added) {
        if (content.every((character, index) => characters[place + index] === character)) {
          this.#addWords(characters, first, place, found);
          found.push({ id, start: place, end: place + content.length });
          first = place + content.length;
          place = first - 1;
          break;
        }
      }
    }
    this.#addWords(characters, first, characters.length, found);
    return found;
  }

  // What the model reads at once: [{ids, tokens, own}], where `own` are the indices of tokens whose tags are taken from
  // this window and not from a neighbour that overlaps it.
  windows(characters) {
    const { prefix, suffix, max_length, overlap } = this.settings;
    const size = max_length - prefix.length - suffix.length;
    const all = this.tokens(characters);
    const windows = [];
    for (let start = 0; windows.length === 0 || start < all.length; start += size - overlap) {
      const tokens = all.slice(start, start + size);
      const isLast = start + size >= all.length;
      const first = start === 0 ? 0 : Math.floor(overlap / 2);
      const last = isLast ? tokens.length : tokens.length - (overlap - Math.floor(overlap / 2));
      const own = [];
      for (let index = first; index < last; index++) own.push(index);
      windows.push({ ids: [...prefix, ...tokens.map((token) => token.id), ...suffix], tokens, own });
      if (isLast) break;
    }
    return windows;
  }

  #addWords(characters, start, end, found) {
    let word = []; // its normalized characters: [character, place]
    const finish = () => {
      if (word.length) this.#addPieces(word, found);
      word = [];
    };
    for (let place = start; place < end; place++) {
      const character = characters[place];
      const point = character.codePointAt(0);
      if (this.settings.clean_text && (point === 0xfffd || CONTROL.test(character))) continue;
      if (SPACE.test(character)) {
        finish();
        continue;
      }
      const isAlone = this.settings.handle_chinese_chars && CHINESE.some(([from, to]) => from <= point && point <= to);
      if (isAlone) finish();
      for (const normalized of this.#normalized(character)) {
        if (PUNCTUATION.test(normalized)) {
          finish();
          word.push([normalized, place]);
          finish();
        } else {
          word.push([normalized, place]);
        }
      }
      if (isAlone) finish();
    }
    finish();
  }

  #normalized(character) {
    let text = character;
    if (this.settings.strip_accents) text = text.normalize("NFD").replace(MARK, "");
    if (this.settings.lowercase) text = Array.from(text, (one) => one.toLowerCase()).join("");
    return Array.from(text);
  }

  #addPieces(word, found) {
    const { unknown, continuing, most_characters } = this.settings;
    const pieces = [];
    let start = 0;
    while (start < word.length && word.length <= most_characters) {
      let end = word.length;
      let id;
      for (; end > start; end--) {
        const piece = (start ? continuing : "") + word.slice(start, end).map(([character]) => character).join("");
        id = this.vocabulary.get(piece);
        if (id !== undefined) break;
      }
      if (id === undefined) break;
      pieces.push({ id, start: word[start][1], end: word[end - 1][1] + 1 });
      start = end;
    }
    if (start === word.length) found.push(...pieces);
    else found.push({ id: unknown, start: word[0][1], end: word[word.length - 1][1] + 1 });
  }
}
