// Evaluates batches of rules with json-logic-js: a line of JSON in, a line of JSON out. Run in the folder of its package.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { choices } from "./choices.mjs";

const require = createRequire(`${process.cwd()}/`);
const load = () => {
  const path = require.resolve("json-logic-js");
  delete require.cache[path]; // its operations are the module's own state
  return require(path);
};
const plain = load();
const chosen = choices(load());
for (const engine of [plain, chosen]) engine.add_operation("log", (value) => value);

// JSON has no NaN and no infinities, and no value that is undefined.
const encoded = (value) => {
  if (value === undefined) return null;
  if (typeof value === "number" && !Number.isFinite(value)) return { $number: String(value) };
  if (Array.isArray(value)) return value.map(encoded);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, encoded(item)]));
};

const result = (engine, { rule, data }) => {
  try {
    return { value: encoded(engine.apply(rule, data)) };
  } catch (error) {
    return { error: String(error.message ?? error) };
  }
};

for await (const line of createInterface({ input: process.stdin })) {
  const { cases, choices: wanted } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(cases.map((each) => result(wanted ? chosen : plain, each)))}\n`);
}
