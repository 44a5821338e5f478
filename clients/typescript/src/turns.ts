/** How many calls may be under way at a time. */

import { status } from '@grpc/grpc-js';
import { FlagServiceError } from './errors.js';

/** A gRPC server resets what it cannot queue, from about a thousand calls at once. */
const AT_ONCE = 500;

/** Lets calls begin in turn, no more than a server takes at once. */
export class Turns {
  #free = AT_ONCE;
  readonly #waiting = new Set<() => void>();

  /** Wait for a turn; rejects with DEADLINE_EXCEEDED when it does not come in time. */
  take(timeoutMs: number): Promise<void> | undefined {
    if (this.#free > 0) {
      this.#free -= 1;
      return undefined;
    }
    return new Promise((resolve, reject) => {
      const begin = () => {
        clearTimeout(late);
        resolve();
      };
      const late = setTimeout(() => {
        this.#waiting.delete(begin);
        reject(new FlagServiceError(status.DEADLINE_EXCEEDED, `${AT_ONCE} calls of this client are under way`));
      }, timeoutMs);
      this.#waiting.add(begin);
    });
  }

  /** End a turn: the one who waits longest is next. */
  give(): void {
    const [next] = this.#waiting;
    if (!next) {
      this.#free += 1;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}
