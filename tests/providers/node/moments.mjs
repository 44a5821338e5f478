// Evaluates flags with the unmodified engine of the Node provider, at moments of its clock.
//
// Standard input: {"document", "moments", "contexts"}; standard output: the variants by flag, moment and context.
// For a list of such inputs it is a list.
import { FlagdCore } from '@openfeature/flagd-core';
import { text } from 'node:stream/consumers';

const silent = { error() {}, warn() {}, info() {}, debug() {} };
const asked = JSON.parse(await text(process.stdin));

function evaluated({ document, moments, contexts }) {
  const core = new FlagdCore();
  core.setConfigurations(JSON.stringify(document));
  const found = {};
  for (const key of Object.keys(document.flags)) {
    found[key] = moments.map((moment) => {
      Date.now = () => moment * 1000 + 500;
      return contexts.map((context) => core.resolveBooleanEvaluation(key, false, context, silent).variant ?? null);
    });
  }
  return found;
}

process.stdout.write(JSON.stringify(Array.isArray(asked) ? asked.map(evaluated) : evaluated(asked)));
