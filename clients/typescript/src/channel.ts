/** How the client connects: which target, retries that are safe, connections that are watched. */

import type { ChannelOptions } from '@grpc/grpc-js';

const SERVICE = 'flagsvc.v1.FlagService';
/** Reads, and a toggle: it carries the wanted state, so sending it twice leaves the same state. */
const RETRIED = ['EvaluateFlag', 'BatchEvaluateFlags', 'GetFlag', 'ListFlags', 'ListFlagHistory', 'ToggleFlag'];

/** Give the target as grpc-js wants it; a TypeError for one without a port. */
export function targetOf(target: string): string {
  if (/^unix:/.test(target)) return target;
  if (!/:\d{1,5}$/.test(target)) {
    throw new TypeError(
      `the target ${JSON.stringify(target)} has no port; write it as "host:8013" or "dns:///host:8013"`,
    );
  }
  return target;
}

/** Give the channel's options; the caller's own stand above them. */
export function channelOptions(own: ChannelOptions): ChannelOptions {
  return {
    'grpc.service_config': JSON.stringify({
      loadBalancingConfig: [{ round_robin: {} }],
      methodConfig: [
        {
          name: RETRIED.map((method) => ({ service: SERVICE, method })),
          retryPolicy: {
            maxAttempts: 3,
            initialBackoff: '0.05s',
            maxBackoff: '0.2s',
            backoffMultiplier: 2,
            retryableStatusCodes: ['UNAVAILABLE'],
          },
        },
      ],
      retryThrottling: { maxTokens: 10, tokenRatio: 0.1 },
    }),
    'grpc.service_config_disable_resolution': 1,
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.keepalive_permit_without_calls': 1,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2_000,
    'grpc.max_receive_message_length': -1,
    ...own,
  };
}
