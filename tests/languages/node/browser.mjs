// A web page with an unmodified provider in a real Chromium, driven by JSON lines as ../go/main.go is:
// MODE HOST PORT SELECTOR CHROMIUM PAGE_PORT. MODE: flagd-web or ofrep-web. The page is served from 127.0.0.1:PAGE_PORT.
// In its environment: CA and TOKEN, as there. Chromium trusts a server that sends this CA's certificate with its own.
import { createHash, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [mode, host, port, selector, executablePath, pagePort] = process.argv.slice(2);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const script = await readFile(new URL('build/page.js', import.meta.url));

const server = createServer((request, response) => {
  const isScript = request.url === '/page.js';
  response.setHeader('Content-Type', isScript ? 'text/javascript' : 'text/html');
  response.end(isScript ? script : '<!doctype html><title>flags</title><body><script src="/page.js" type="module"></script>');
});
await new Promise((resolve) => server.listen(Number(pagePort), '127.0.0.1', resolve));

const { CA = '', TOKEN = '' } = process.env;
const keyOf = async (file) => new X509Certificate(await readFile(file)).publicKey.export({ type: 'spki', format: 'der' });
const hashOf = async (file) => createHash('sha256').update(await keyOf(file)).digest('base64');
const trusted = CA ? [`--ignore-certificate-errors-spki-list=${await hashOf(CA)}`] : [];
const quiet = ['--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--no-first-run', ...quiet, ...trusted] });
const page = await browser.newPage();
await page.exposeFunction('say', say);
page.on('pageerror', (error) => say({ failed: error.message }));
await page.goto(`http://127.0.0.1:${pagePort}/?${[mode, host, port, selector, CA && 'tls', TOKEN].join('&')}`);
for await (const line of createInterface({ input: process.stdin })) {
  say(await page.evaluate((question) => window.ask(question), JSON.parse(line)));
}
await browser.close();
process.exit(0);
