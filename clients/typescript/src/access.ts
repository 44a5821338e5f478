/** Whom a client trusts, and how it proves who it is: TLS, a certificate of its own, a token. */

import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { type ChannelCredentials, type ChannelOptions, Metadata, credentials, status } from '@grpc/grpc-js';
import { FlagServiceError } from './errors.js';

/** TLS with PEM files, which are read when the client is made. */
export interface Tls {
  /** CAs of the server's certificate. Default: public ones. */
  readonly ca?: string;
  /** The client's own certificate, for servers that require one, and its key. */
  readonly certificate?: string;
  readonly key?: string;
  /** Name in the server's certificate. Default: the host of the target. */
  readonly serverName?: string;
}

/** How a client connects. */
export interface AccessOptions {
  /** Default: plain text. */
  readonly credentials?: ChannelCredentials;
  /** `true`: the server's certificate is of a public CA. */
  readonly tls?: Tls | boolean;
  /** Sent with every call: the token, or what returns it. */
  readonly token?: string | (() => string | Promise<string>);
  /** File with the token, which may be replaced. */
  readonly tokenFile?: string;
  /** Whether a token may go to another machine in plain text, because the network encrypts. Default: no. */
  readonly plaintextToken?: boolean;
}

/** What the options come to. */
export interface Access {
  readonly credentials: ChannelCredentials;
  readonly options: ChannelOptions;
  /** Returns the headers of a call; rejects with a FlagServiceError if there is no token to send. */
  readonly metadata: () => Promise<Metadata>;
}

const READ_EVERY_MS = 1_000;
const TOKEN = /^[\x21-\x7e]+$/;

/** Give how to connect to a target; a TypeError for options that contradict each other, or would show a token. */
export function accessTo(target: string, given: AccessOptions): Access {
  const { tls, token, tokenFile } = given;
  if (tls && given.credentials) throw new TypeError('both credentials and tls are given; leave one out');
  if (token !== undefined && tokenFile !== undefined) throw new TypeError('both token and tokenFile are given');
  if (typeof token === 'string') check(token);
  const chosen = typeof tls === 'object' ? tls : {};
  const options: ChannelOptions = chosen.serverName ? { 'grpc.ssl_target_name_override': chosen.serverName } : {};
  const secured = given.credentials ?? (tls ? secure(chosen) : undefined);
  const source = tokenFile === undefined ? token : fromFile(tokenFile);
  if (source !== undefined && !secured) {
    if (isLocal(target)) options['grpc.enable_http_proxy'] = 0; // nor may a proxy read it
    else if (!given.plaintextToken) {
      throw new TypeError(
        `the token would be sent to ${JSON.stringify(target)} in plain text; use tls, or plaintextToken if the network encrypts`,
      );
    }
  }
  return {
    credentials: secured ?? credentials.createInsecure(),
    options,
    metadata: () => headers(source),
  };
}

/** Tell whether a target can only be on this machine: a unix socket, or a loopback address. */
export function isLocal(target: string): boolean {
  if (/^unix(-abstract)?:/.test(target)) return true;
  const host = target
    .replace(/^(dns:(\/\/\/)?|ipv4:|ipv6:)/, '')
    .replace(/:\d{1,5}$/, '')
    .replace(/^\[|\]$/g, '');
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

function secure({ ca, certificate, key }: Tls): ChannelCredentials {
  if ((certificate === undefined) !== (key === undefined)) {
    throw new TypeError('tls has a certificate or a key; a client’s own certificate needs both');
  }
  const [roots, ownKey, own] = [ca, key, certificate].map((path) => (path === undefined ? null : readFileSync(path)));
  return credentials.createSsl(roots, ownKey, own);
}

async function headers(source: AccessOptions['token']): Promise<Metadata> {
  const metadata = new Metadata();
  if (source === undefined) return metadata;
  try {
    const token = typeof source === 'string' ? source : await source();
    check(token);
    metadata.set('authorization', `Bearer ${token}`);
  } catch (error) {
    const kind = error instanceof Error ? error.name : typeof error;
    throw new FlagServiceError(status.UNAVAILABLE, `there is no token to send: ${kind}`, { reason: 'NO_TOKEN' });
  }
  return metadata;
}

/** Read the file at most once a second. */
function fromFile(path: string): () => Promise<string> {
  let readAt = -Infinity;
  let token = '';
  return async () => {
    if (performance.now() - readAt >= READ_EVERY_MS) {
      token = (await readFile(path, 'utf8')).trim();
      readAt = performance.now();
    }
    return token;
  };
}

function check(token: unknown): void {
  if (typeof token !== 'string' || !TOKEN.test(token)) {
    throw new TypeError('the token is empty, or has characters that no token has');
  }
}
