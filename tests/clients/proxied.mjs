// Gets URLs through the proxy of the environment with Node's fetch (undici), and prints what it has read.
// NODE_USE_ENV_PROXY=1 NODE_EXTRA_CA_CERTS=CA_FILE node proxied.mjs URL...
for (const url of process.argv.slice(2)) {
  let read;
  try {
    read = await (await fetch(url)).text();
  } catch (error) {
    read = `${error.name}: ${error.cause?.message ?? error.message}`;
  }
  console.log(JSON.stringify({ client: "undici", url, read }));
}
