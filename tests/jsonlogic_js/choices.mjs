// The differences from json-logic-js that docs/targeting.md names, and nothing else, applied to the library's operators.
const isText = (value) => typeof value === "string";
const isNested = (value) => value !== null && typeof value === "object";
const isHexadecimal = (value) => isText(value) && /^\s*0[xob]/i.test(value);

// "hexadecimal text"
const number = (value) => {
  const only = Array.isArray(value) && value.length === 1 ? String(value) : value;
  return isHexadecimal(only) ? NaN : Number(value);
};

// "empty text in a sum" and "beginning of a text"
const addend = (value) => {
  if (Array.isArray(value)) return value.length ? addend(value[0]) : NaN;
  return typeof value === "number" ? value : isText(value) ? number(value) : NaN;
};

// "list as a text"
const loosely = (value) => (isHexadecimal(value) ? NaN : value);
const equal = (a, b) => {
  if (isNested(a) && isNested(b)) return false;
  const [nested, other] = isNested(a) ? [a, b] : [b, a];
  if (isNested(nested)) return Array.isArray(nested) && nested.length === 0 && other !== null && number(other) === 0;
  return isText(a) && isText(b) ? a === b : loosely(a) == loosely(b);
};

// "characters": texts are in the order of their code points
const byCodePoint = (a, b) => {
  const [left, right] = [[...a], [...b]];
  for (let i = 0; i < Math.min(left.length, right.length); i += 1) {
    const difference = left[i].codePointAt(0) - right[i].codePointAt(0);
    if (difference) return difference;
  }
  return left.length - right.length;
};
const below = (a, b) => {
  if (isText(a) && isText(b)) return byCodePoint(a, b) < 0;
  return !isNested(a) && !isNested(b) && number(a) < number(b);
};

// "null at least 0" and "three arguments"
const ordering = (holds) => (...values) => holds(values[0], values[1]) && (values.length < 3 || holds(values[1], values[2]));
const orEqual = (holds) => (a, b) => holds(a, b) || equal(a, b);
const above = (a, b) => below(b, a);

const step = (data, name) => {
  if (!isText(data)) return data[name];
  const characters = [...data]; // "characters"
  return name === "length" ? characters.length : characters[name];
};

// "default for null"
function variable(path, fallback) {
  const otherwise = fallback === undefined ? null : fallback;
  if (path === undefined || path === null || path === "") return this ?? otherwise;
  let data = this;
  for (const name of String(path).split(".")) {
    if (data === null || data === undefined) return otherwise;
    data = step(data, name);
  }
  return data ?? otherwise;
}

// "null in substr", "text as a length" and "characters"
const substr = (value, start, length) => {
  const characters = [...(value === null ? "" : String(value))];
  const from = Math.trunc(number(start)) || 0;
  const begin = from < 0 ? Math.max(0, characters.length + from) : from;
  if (length === undefined) return characters.slice(begin).join("");
  const count = Math.trunc(number(length)) || 0;
  const end = count < 0 ? characters.length + count : begin + count;
  return characters.slice(begin, Math.max(begin, end)).join("");
};

export const choices = (engine) => {
  const truthy = engine.truthy;
  engine.truthy = (value) => truthy(value) && !(isNested(value) && Object.keys(value).length === 0); // "empty object"
  const missing = function (...names) {
    const wanted = Array.isArray(names[0]) ? names[0] : names;
    return wanted.filter((name) => variable.call(this, name) === null); // "empty text is there"
  };
  const operations = {
    "==": equal,
    "!=": (a, b) => !equal(a, b),
    "<": ordering(below),
    "<=": ordering(orEqual(below)),
    ">": ordering(above),
    ">=": ordering(orEqual(above)),
    "+": (...values) => values.reduce((sum, value) => sum + addend(value), 0),
    "*": (...values) => values.reduce((product, value) => product * addend(value), 1), // "one factor"
    "-": (a, b) => (b === undefined ? -number(a) : number(a) - number(b)),
    "/": (a, b) => number(a) / number(b),
    "%": (a, b) => number(a) % number(b),
    min: (...values) => Math.min(...values.map(number)),
    max: (...values) => Math.max(...values.map(number)),
    in: (part, whole) => (isText(whole) ? whole.includes(String(part)) : Array.isArray(whole) && whole.indexOf(part) >= 0), // "empty text in"
    substr,
    var: variable,
    missing,
    missing_some(needed, names) {
      if (!Array.isArray(names)) return []; // "no list of names"
      const absent = names.filter((name) => variable.call(this, name) === null);
      return names.length - absent.length >= number(needed) ? [] : absent;
    },
  };
  for (const [name, operation] of Object.entries(operations)) engine.add_operation(name, operation);
  return engine;
};
