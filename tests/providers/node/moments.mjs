// Evaluates flags with the unmodified engine of the Node provider, at moments of its clock.
//
// Standard input: {"document", "moments", "contexts"}; standard output: the variants by flag, moment and context.
import { FlagdCore } from '@openfeature/flagd-core';
import { text } from 'node:stream/consumers';

const silent = { error() {}, warn() {}, info() {}, debug() {} };
const { document, moments, contexts } = JSON.parse(await text(process.stdin));
const core = new FlagdCore();
core.setConfigurations(JSON.stringify(document));
const found = {};
for (const key of Object.keys(document.flags)) {
  found[key] = moments.map((moment) => {
    Date.now = () => moment * 1000 + 500;
    return contexts.map((context) => core.resolveBooleanEvaluation(key, false, context, silent).variant ?? null);
  });
}
process.stdout.write(JSON.stringify(found));
