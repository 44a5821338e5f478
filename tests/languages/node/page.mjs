// The page of browser.mjs, bundled by esbuild: an unmodified provider for the web. The page's address says which: ?MODE&HOST&PORT&SELECTOR&TLS&TOKEN.
import { FlagdWebProvider } from '@openfeature/flagd-web-provider';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { OpenFeature, ProviderEvents } from '@openfeature/web-sdk';
import { answered, askedOf, headersOf, silent } from './asking.mjs';

const [mode, host, port, selector, tls, token] = location.search.slice(1).split('&');
const bearer = (next) => (request) => {
  request.header.set('Authorization', `Bearer ${token}`);
  return next(request);
};
const providers = {
  'flagd-web': () => new FlagdWebProvider({ host, port: Number(port), tls: Boolean(tls), ...(token && { interceptors: [bearer] }) }),
  'ofrep-web': () => new OFREPWebProvider({ baseUrl: `${tls ? 'https' : 'http'}://${host}:${port}`, headers: headersOf(selector, token) }),
};

OpenFeature.setLogger(silent);
const client = OpenFeature.getClient();
for (const event of Object.values(ProviderEvents)) {
  OpenFeature.addHandler(event, (details) => {
    window.say({ event, flags: details?.flagsChanged ?? [] });
    document.body.append(`${event} checkout-v2=${client.getBooleanValue('checkout-v2', false)}`, document.createElement('br'));
  });
}

let known = '{}';
window.ask = async ({ id, kind, key, default: value, context }) => {
  const given = JSON.stringify(context);
  if (given !== known) {
    localStorage.clear(); // what is kept there is taken first, whatever the rest of the context
    await OpenFeature.setContext(context); // as a page does when somebody logs in
    known = given;
  }
  return answered(id, askedOf(client, kind).call(client, key, value));
};
OpenFeature.setProviderAndWait(providers[mode]()).catch((error) => window.say({ failed: error.message }));
