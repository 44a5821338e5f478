// What the programs for Node and for pages share.
export const silent = { error() {}, warn() {}, info() {}, debug() {} };

/** The headers of OFREP's providers that select a flag set and show a token, where there are any. */
export const headersOf = (selector, token) => [
  ...(selector ? [['Flagd-Selector', selector]] : []),
  ...(token ? [['Authorization', `Bearer ${token}`]] : []),
];

/** The client's call for a kind of value; JavaScript has one kind of number. */
export function askedOf(client, kind) {
  return {
    boolean: client.getBooleanDetails,
    string: client.getStringDetails,
    integer: client.getNumberDetails,
    float: client.getNumberDetails,
    object: client.getObjectDetails,
  }[kind];
}

export function answered(id, { value, reason, variant, errorCode, flagMetadata }) {
  return { id, value, reason, variant, errorCode, metadata: flagMetadata };
}
