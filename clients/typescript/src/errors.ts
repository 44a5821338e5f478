/** Failed calls: the gRPC status with the details that the server sends beside it. */

import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import type { ErrorCode } from './details.js';
import { BadRequest, ErrorInfo, RetryInfo, Status } from './gen/flagsvc/errors/v1/errors.js';
import { InvalidValue } from './values.js';

const DETAILS = 'grpc-status-details-bin';
const URL = 'type.googleapis.com/google.rpc.';

/** A field of the request that is wrong. */
export interface Violation {
  readonly field: string;
  readonly description: string;
  readonly reason: string;
}

/** A failed call. */
export class FlagServiceError extends Error {
  override readonly name = 'FlagServiceError';
  /** The gRPC status code, as in grpc-js's `status`. */
  readonly code: status;
  /** What went wrong, for programs, such as FLAG_VERSION_CONFLICT; empty when unknown. */
  readonly reason: string;
  /** What the message speaks of, by name. */
  readonly metadata: ReadonlyMap<string, string>;
  readonly violations: readonly Violation[];
  /** When to try again, where the server says so. */
  readonly retryAfterMs?: number;

  constructor(
    code: status,
    message: string,
    details: Partial<Pick<FlagServiceError, 'reason' | 'metadata' | 'violations' | 'retryAfterMs'>> = {},
  ) {
    super(message);
    this.code = code;
    this.reason = details.reason ?? '';
    this.metadata = details.metadata ?? new Map();
    this.violations = details.violations ?? [];
    if (details.retryAfterMs !== undefined) this.retryAfterMs = details.retryAfterMs;
  }
}

/** Give what a failed call says, whatever failed. */
export function failureOf(error: unknown): FlagServiceError {
  if (error instanceof FlagServiceError) return error;
  if (error instanceof InvalidValue) {
    const reason = 'INVALID_CONTEXT';
    return new FlagServiceError(
      status.INVALID_ARGUMENT,
      `the context has ${error.message}; values must be JSON or a Date`,
      { reason },
    );
  }
  const { code, details, metadata } = error as Partial<ServiceError>;
  if (typeof code !== 'number')
    return new FlagServiceError(status.UNKNOWN, error instanceof Error ? error.message : String(error));
  return new FlagServiceError(code, details ?? '', metadata instanceof Metadata ? detailsOf(metadata) : {});
}

function detailsOf(metadata: Metadata): ConstructorParameters<typeof FlagServiceError>[2] {
  const [packed] = metadata.get(DETAILS);
  if (!Buffer.isBuffer(packed)) return {};
  try {
    const byType = new Map(Status.decode(packed).details.map(({ typeUrl, value }) => [typeUrl, value]));
    const info = ErrorInfo.decode(byType.get(`${URL}ErrorInfo`) ?? new Uint8Array());
    const { fieldViolations } = BadRequest.decode(byType.get(`${URL}BadRequest`) ?? new Uint8Array());
    const { retryDelay } = RetryInfo.decode(byType.get(`${URL}RetryInfo`) ?? new Uint8Array());
    return {
      reason: info.reason,
      metadata: info.metadata,
      violations: fieldViolations,
      ...(retryDelay && { retryAfterMs: Number(retryDelay.seconds) * 1000 + retryDelay.nanos / 1e6 }),
    };
  } catch {
    return {};
  }
}

/** Give the error code of an evaluation whose call failed. */
export function errorCodeOf(error: FlagServiceError): ErrorCode {
  switch (error.code) {
    case status.UNAVAILABLE:
    case status.DEADLINE_EXCEEDED:
    case status.CANCELLED:
      return 'PROVIDER_NOT_READY';
    default:
      return error.reason === 'INVALID_CONTEXT' ? 'INVALID_CONTEXT' : 'GENERAL';
  }
}
