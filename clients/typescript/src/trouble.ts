/** Log lines that are not repeated a thousand times. */

const QUIET_MS = 60_000;

/** Says each kind of trouble at once, then at most every minute with the number of times that it was not said. */
export class Trouble {
  readonly #said = new Map<string, { at: number; unsaid: number }>();
  readonly #log: (line: string) => void;

  constructor(log: (line: string) => void) {
    this.#log = log;
  }

  say(kind: string, text: string): void {
    const now = performance.now();
    const last = this.#said.get(kind);
    if (last && now - last.at < QUIET_MS) {
      last.unsaid += 1;
      return;
    }
    this.#said.set(kind, { at: now, unsaid: 0 });
    this.#log(last?.unsaid ? `flagsvc: ${text} (and ${last.unsaid} times before)` : `flagsvc: ${text}`);
  }
}
