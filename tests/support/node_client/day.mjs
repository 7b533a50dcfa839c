// What users of the official JavaScript client do: `node day.mjs objects|streams <kubeconfig>`; a step that fails throws.
// `streams` needs a running pod `s` whose container `app` echoes lines of its input and has busybox's nc on port 8080.
import assert from "node:assert/strict";
import { once } from "node:events";
import net from "node:net";
import { PassThrough } from "node:stream";
import * as k8s from "@kubernetes/client-node";

const [what, kubeconfig] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const namespace = "default";

async function objects() {
  const apps = config.makeApiClient(k8s.AppsV1Api);
  const seen = [];
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
    core.listNamespacedConfigMap({ namespace }),
  );
  const added = new Promise((resolve) => informer.on("add", (o) => (seen.push(o.metadata.name), resolve())));
  const deleted = new Promise((resolve) => informer.on("delete", resolve));
  await informer.start();
  const body = { metadata: { generateName: "js-", labels: { by: "js" } }, data: { a: "b" } };
  const made = await core.createNamespacedConfigMap({ namespace, body });
  const name = made.metadata.name;
  await added;
  assert.deepEqual(seen, [name]);
  const patched = await core.patchNamespacedConfigMap(
    { name, namespace, body: [{ op: "add", path: "/data/c", value: "d" }] },
    k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.JsonPatch),
  );
  assert.deepEqual(patched.data, { a: "b", c: "d" });
  const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: "by=js" });
  assert.equal(listed.items.length, 1);
  await core.deleteNamespacedConfigMap({ name, namespace });
  await deleted;
  await informer.stop();
  await assert.rejects(core.readNamespacedConfigMap({ name, namespace }), (e) => e.code === 404);

  const labels = { app: "js" };
  const template = { metadata: { labels }, spec: { containers: [{ name: "c", image: "x" }] } };
  const spec = { selector: { matchLabels: labels }, template, replicas: 2 };
  await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: "js" }, spec } });
  const scale = await apps.readNamespacedDeploymentScale({ name: "js", namespace });
  assert.equal(scale.spec.replicas, 2);
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const secret = { apiVersion: "v1", kind: "Secret", metadata: { name: "js", namespace }, stringData: { k: "v" } };
  await objects.create(secret);
  const read = await objects.read(secret);
  assert.equal(Buffer.from(read.data.k, "base64").toString(), "v");
  await assert.rejects(
    core.createNamespacedService({ namespace, body: { metadata: { name: "Bad Name" }, spec: { ports: [{ port: 80 }] } } }),
    (e) => e.code === 422 && JSON.parse(e.body).reason === "Invalid",
  );
  const version = await config.makeApiClient(k8s.VersionApi).getCode();
  assert.equal(version.major, "1");
}

async function text(stream, wanted) {
  let all = "";
  for await (const chunk of stream) {
    all += chunk;
    if (wanted && all.includes(wanted)) return all;
  }
  return all;
}

async function exec() {
  const [out, err, input] = [new PassThrough(), new PassThrough(), new PassThrough()];
  const command = ["sh", "-c", "cat; echo oops >&2; exit 3"];
  const ended = new Promise((resolve, reject) =>
    new k8s.Exec(config).exec(namespace, "s", "app", command, out, err, input, false, resolve).catch(reject),
  );
  input.end("through and through");
  const status = await ended;
  out.end();
  err.end();
  assert.equal(await text(out), "through and through");
  assert.equal(await text(err), "oops\n");
  assert.deepEqual(status.details.causes, [{ reason: "ExitCode", message: "3" }]);
}

async function attach() {
  const [out, input] = [new PassThrough(), new PassThrough()];
  const socket = await new k8s.Attach(config).attach(namespace, "s", "app", out, null, input, false);
  input.write("hello\n");
  assert.match(await text(out, "got hello"), /got hello/);
  socket.close();
}

async function portForward() {
  const forward = new k8s.PortForward(config);
  const server = net.createServer((socket) => forward.portForward(namespace, "s", [8080], socket, null, socket));
  await once(server.listen(0, "127.0.0.1"), "listening");
  const client = net.connect(server.address().port, "127.0.0.1");
  assert.match(await text(client, "served"), /served/);
  client.destroy();
  server.close();
}

async function logs() {
  const out = new PassThrough();
  await new k8s.Log(config).log(namespace, "s", "app", out, { tailLines: 10 });
  assert.match(await text(out, "ready"), /ready/);
}

async function streams() {
  for (const step of [exec, attach, portForward, logs]) await step();
}

await { objects, streams }[what]();
process.exit(0);
