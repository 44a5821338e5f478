/** How a client calls the services: one channel, access, deadlines and turns, and the revision of its newest write. */

import { type ChannelOptions, type Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { type Access, type AccessOptions, accessTo } from './access.js';
import { channelOptions, targetOf } from './channel.js';
import { FlagServiceError, failureOf } from './errors.js';
import { FlagServiceClient } from './gen/flagsvc/v1/flag_service.js';
import { RolloutServiceClient } from './gen/flagsvc/v1/rollout_service.js';
import { ScheduleServiceClient } from './gen/flagsvc/v1/schedule_service.js';
import { SegmentServiceClient } from './gen/flagsvc/v1/segment_service.js';
import { Turns } from './turns.js';

/** How a client calls. */
export interface CallerOptions extends AccessOptions {
  /** Default: "default". */
  readonly flagSet?: string;
  /** Deadline of every call, in milliseconds. Default: 500, and 5,000 for what changes or looks up what is stored. */
  readonly timeoutMs?: number;
  /** Who makes changes, for the history. */
  readonly actor?: string;
  /** Further options of grpc-js. */
  readonly channelOptions?: ChannelOptions;
}

type Answer<T> = (error: ServiceError | null, answer: T) => void;
/** A method of a generated stub. */
export type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: number },
  answer: Answer<Response>,
) => unknown;
/** Default deadline of a call that changes or looks up what is stored: it is a transaction, or many reads. */
const STORE_MS = 5_000;

/** Calls the services. */
export class Caller {
  readonly flagSet: string;
  readonly actor: string;
  readonly timeoutMs: number;
  readonly #storeMs: number;
  readonly flags: FlagServiceClient;
  readonly schedules: ScheduleServiceClient;
  readonly rollouts: RolloutServiceClient;
  readonly segments: SegmentServiceClient;
  readonly closing = new AbortController();
  readonly #access: Access;
  readonly #turns = new Turns();
  #written = 0n;

  /** A TypeError for a target without a port, or a token in plain text. */
  constructor(target: string, options: CallerOptions) {
    this.flagSet = options.flagSet ?? 'default';
    this.actor = options.actor ?? '';
    this.timeoutMs = options.timeoutMs ?? 500;
    this.#storeMs = options.timeoutMs ?? STORE_MS;
    this.#access = accessTo(targetOf(target), options);
    const { credentials } = this.#access;
    const channel = channelOptions({ ...this.#access.options, ...options.channelOptions });
    this.flags = new FlagServiceClient(target, credentials, channel);
    const shared = { channelOverride: this.flags.getChannel() };
    this.schedules = new ScheduleServiceClient(target, credentials, shared);
    this.rollouts = new RolloutServiceClient(target, credentials, shared);
    this.segments = new SegmentServiceClient(target, credentials, shared);
  }

  /** Call a method of a stub; rejects with gRPC's error. */
  async call<Request, Response>(
    stub: object,
    method: Method<Request, Response>,
    request: Request,
    timeoutMs: number = this.timeoutMs,
  ): Promise<Response> {
    const deadline = Date.now() + timeoutMs;
    await this.#turns.take(timeoutMs);
    try {
      if (this.closing.signal.aborted) throw new FlagServiceError(status.UNAVAILABLE, 'the client is closed');
      const metadata = await this.metadata();
      return await new Promise<Response>((resolve, reject) => {
        const answer: Answer<Response> = (error, response) => (error ? reject(error) : resolve(response));
        method.call(stub, request, metadata, { deadline }, answer);
      });
    } finally {
      this.#turns.give();
    }
  }

  /** Call a method that changes or looks up what is stored; rejects with a FlagServiceError. */
  async stored<Request, Response>(
    stub: object,
    method: Method<Request, Response>,
    request: Request,
    waitMs = 0,
  ): Promise<Response> {
    try {
      return await this.call(stub, method, request, this.#storeMs + waitMs);
    } catch (error) {
      throw failureOf(error);
    }
  }

  /** The headers of a call. */
  async metadata(): Promise<Metadata> {
    return this.#access.metadata();
  }

  /** The revision to insist on: what was asked for, or this client's newest write. */
  minimum(asked = 0n): bigint {
    return asked > this.#written ? asked : this.#written;
  }

  /** Let later reads ask for this revision or a newer one. */
  noteWritten(revision: bigint): void {
    this.#written = this.minimum(revision);
  }

  /** End all streams and connections. */
  close(): void {
    this.closing.abort();
    this.flags.close();
  }
}
