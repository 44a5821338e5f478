/** Bad days: proxies that cut or never answer, and a server from the future. */

import * as net from 'node:net';
import { Server, ServerCredentials } from '@grpc/grpc-js';

/** Something that listens; closing it ends its connections too. */
export interface Listener {
  readonly target: string;
  /** End all connections; it goes on listening. */
  cut(): void;
  close(): Promise<void>;
}

async function listening(server: net.Server, port = 0): Promise<Listener> {
  const sockets = new Set<net.Socket>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const cut = () => sockets.forEach((socket) => socket.destroy());
  const close = () => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    cut();
    return closed;
  };
  return { target: `127.0.0.1:${(server.address() as net.AddressInfo).port}`, cut, close };
}

/** A proxy before a target. */
export function proxy(target: string, port = 0): Promise<Listener> {
  const [host, number] = target.split(':') as [string, string];
  const server = net.createServer((socket) => {
    const upstream = net.connect(Number(number), host);
    upstream.on('error', () => socket.destroy());
    upstream.on('close', () => socket.destroy());
    socket.on('close', () => upstream.destroy());
    socket.pipe(upstream).pipe(socket);
  });
  return listening(server, port);
}

/** Accepts connections and never answers. */
export const silent = (): Promise<Listener> => listening(net.createServer((socket) => socket.resume()));

/** A port on which nobody listens. */
export async function nobody(): Promise<string> {
  const listener = await listening(net.createServer());
  await listener.close();
  return listener.target;
}

/** A gRPC server whose methods answer with these bytes; `asked` has the requests. */
export async function raw(
  answers: Record<string, Buffer>,
): Promise<{ target: string; asked: Map<string, Buffer[]>; close(): void }> {
  const server = new Server();
  const asked = new Map<string, Buffer[]>();
  const identity = (bytes: Buffer) => bytes;
  const methods = Object.keys(answers).map((method) => {
    const path = `/flagsvc.v1.FlagService/${method}`;
    const plain = {
      requestStream: false,
      responseStream: false,
      requestSerialize: identity,
      requestDeserialize: identity,
    };
    return [method, { path, ...plain, responseSerialize: identity, responseDeserialize: identity }] as const;
  });
  const handlers = Object.fromEntries(
    Object.entries(answers).map(([method, answer]) => [
      method,
      (call: { request: Buffer }, callback: (error: null, answer: Buffer) => void) => {
        asked.set(method, [...(asked.get(method) ?? []), call.request]);
        callback(null, answer);
      },
    ]),
  );
  server.addService(Object.fromEntries(methods), handlers);
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) =>
      error ? reject(error) : resolve(port),
    );
  });
  return { target: `127.0.0.1:${bound}`, asked, close: () => server.forceShutdown() };
}

/** A gRPC server whose watch streams say this, one after the other, the last without an end; `asked` has the requests. */
export async function watched(streams: Buffer[][]): Promise<{ target: string; asked: Buffer[]; close(): void }> {
  const server = new Server();
  const asked: Buffer[] = [];
  const identity = (bytes: Buffer) => bytes;
  const path = '/flagsvc.v1.FlagService/WatchFlags';
  const plain = {
    requestStream: false,
    responseStream: true,
    requestSerialize: identity,
    requestDeserialize: identity,
  };
  const WatchFlags = { path, ...plain, responseSerialize: identity, responseDeserialize: identity };
  server.addService(
    { WatchFlags },
    {
      WatchFlags: (call: { request: Buffer; write(bytes: Buffer): void; end(): void }) => {
        asked.push(call.request);
        streams[asked.length - 1]?.forEach((message) => call.write(message));
        if (asked.length < streams.length) call.end();
      },
    },
  );
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) =>
      error ? reject(error) : resolve(port),
    );
  });
  return { target: `127.0.0.1:${bound}`, asked, close: () => server.forceShutdown() };
}
