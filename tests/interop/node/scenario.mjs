// A real Node client at work.
//
// Usage: scenario.mjs ENDPOINT[,ENDPOINT...] [SCENARIO...]; INTEROP_USER and INTEROP_PASSWORD log in. Run where `etcd3` is installed.
// `? kill-leader` and `? restart` on stdout ask the harness for them; it answers by a line. Exits 0 when all held.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import readline from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

const { Etcd3 } = createRequire(`${process.cwd()}/`)('etcd3');

const hosts = process.argv[2].split(',');
const auth = process.env.INTEROP_USER && { username: process.env.INTEROP_USER, password: process.env.INTEROP_PASSWORD };
const typed = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// Its default conflicts with itself once two keys were written at different revisions, with etcd as well.
const SERIALIZABLE = 1;

const connect = () => new Etcd3({ hosts, auth: auth || undefined, dialTimeout: 10_000 });

async function ask(what) {
  console.log(`? ${what}`);
  assert(!(await typed.next()).done, `nobody answers ${what}`);
}

// What a change of leader may interrupt is tried again, as any program has to.
async function again(attempt) {
  for (const until = Date.now() + 60_000; ; await pause(100)) {
    try {
      return await attempt();
    } catch (error) {
      if (Date.now() > until) throw error;
    }
  }
}

async function keys(client, other) {
  const space = client.namespace('node/keys/');
  await space.put('a').value('1');
  const replaced = await space.put('a').value('2').getPrevious();
  assert.equal(replaced.value.toString(), '1');
  await space.put('b').value('3');
  assert.equal(await other.get('node/keys/a').string(), '2');
  assert.equal(await other.get('node/keys/none').string(), null);
  assert.deepEqual(await space.getAll().strings(), { a: '2', b: '3' });
  assert.deepEqual(await other.getAll().prefix('node/keys/').sort('Value', 'Descend').keys(), ['node/keys/b', 'node/keys/a']);
  assert.equal(await other.getAll().prefix('node/keys/').count(), 2);
  const past = await other.get('node/keys/a').revision(replaced.header.revision - 1).string();
  assert.equal(past, '1');
  await assert.rejects(other.get('node/keys/a').revision(2 ** 40).exec(), /future revision/);
  assert.equal((await space.delete().all()).deleted, '2');
}

async function compareAndSwap(client, other) {
  await client.put('node/cas').value(0);
  const steps = async (own) => {
    for (let done = 0; done < 20; ) {
      const { kvs: [kv] } = await own.get('node/cas').exec();
      const next = Number(kv.value.toString()) + 1;
      const { succeeded } = await own.if('node/cas', 'Mod', '==', kv.mod_revision).then(own.put('node/cas').value(next)).commit();
      if (succeeded) done += 1;
    }
  };
  await Promise.all([client, other, client, other].map(steps));
  assert.equal(await client.get('node/cas').number(), 80);
  const lost = await client.if('node/cas', 'Value', '==', '0').then(client.put('node/cas').value('lost')).else(client.get('node/cas')).commit();
  assert.equal(lost.succeeded, false);
  assert.equal(lost.responses[0].response_range.kvs[0].value.toString(), '80');
}

async function transactions(client, other) {
  await client.put('node/stm/a').value(100);
  await client.put('node/stm/b').value(0);
  const move = (own) => own.stm({ retries: 50, isolation: SERIALIZABLE }).transact(async (state) => {
    const [a, b] = [await state.get('node/stm/a').number(), await state.get('node/stm/b').number()];
    await state.put('node/stm/a').value(a - 1);
    await state.put('node/stm/b').value(b + 1);
  });
  await Promise.all([move(client), move(other), move(client), move(other)]);
  assert.deepEqual(await client.getAll().prefix('node/stm/').numbers(), { 'node/stm/a': 96, 'node/stm/b': 4 });
}

async function paging(client, other) {
  const space = client.namespace('node/pages/');
  for (let from = 0; from < 5_000; from += 100) {
    const puts = Array.from({ length: 100 }, (_, i) => space.put(String(from + i).padStart(5, '0')).value('page me'));
    await space.if('none', 'Create', '==', 0).then(...puts).commit();
  }
  let seen = 0, start = 'node/pages/', revision;
  for (;;) {
    let page = other.getAll().inRange({ start, end: 'node/pages0' }).limit(500);
    if (revision) page = page.revision(revision);
    const answer = await page.exec();
    revision ??= answer.header.revision;
    for (const kv of answer.kvs) {
      assert.equal(kv.key.toString(), `node/pages/${String(seen).padStart(5, '0')}`);
      seen += 1;
    }
    if (!answer.more) break;
    start = Buffer.concat([answer.kvs.at(-1).key, Buffer.from([0])]);
    await space.put(`${String(seen).padStart(5, '0')}-new`).value('later');
  }
  assert.equal(seen, 5_000);
  await space.delete().all();
}

async function listThenWatch(client, other) {
  await client.put('node/lw/1').value('x');
  const listed = await other.getAll().prefix('node/lw/').exec();
  // What happens before the watch opens comes from history.
  for (let i = 0; i < 20; i++) await client.put(`node/lw/${i % 5}`).value(i);
  await client.delete().key('node/lw/1');
  const watcher = await other.watch().prefix('node/lw/').startRevision(String(Number(listed.header.revision) + 1)).withPreviousKV().create();
  const told = [];
  const all = new Promise((resolve, reject) => {
    watcher.on('error', reject);
    watcher.on('data', ({ events }) => {
      told.push(...events);
      if (told.length >= 22) resolve();
    });
  });
  await client.put('node/lw/end').value('end');
  await all;
  await watcher.cancel();
  assert.deepEqual(told.slice(0, 20).map((event) => event.kv.value.toString()), Array.from({ length: 20 }, (_, i) => String(i)));
  assert.equal(told[20].type, 'Delete');
  assert.equal(told[20].prev_kv.value.toString(), '16');
  assert.equal(told[21].kv.key.toString(), 'node/lw/end');
}

async function leases(client, other) {
  const lease = client.lease(60);
  await lease.put('node/leased').value('x');
  assert.equal(await other.get('node/leased').string(), 'x');
  assert.equal((await lease.keepaliveOnce()).TTL, '60');
  await lease.revoke();
  assert.equal(await other.get('node/leased').string(), null);
  // One that nobody renews ends by itself.
  const left = client.lease(2, { autoKeepAlive: false });
  await left.put('node/left').value('x');
  const gone = await other.watch().key('node/left').create();
  if (await other.get('node/left').exists()) await new Promise((resolve) => gone.once('delete', resolve));
  await gone.cancel();
  assert.equal(await other.get('node/left').string(), null);
}

async function locks(client, other) {
  let inside = 0;
  const turn = (own) => own.lock('node/lock').ttl(10).do(async () => {
    assert.equal(++inside, 1, 'two hold one lock');
    await pause(20);
    inside -= 1;
  });
  // Its lock fails at once where it is held.
  await turn(client);
  const held = await client.lock('node/lock').ttl(10).acquire();
  await assert.rejects(other.lock('node/lock').ttl(10).acquire(), /lock/);
  await held.release();
  await turn(other);
}

async function elections(client, other) {
  const [one, two] = [client.election('node/seat', 10), other.election('node/seat', 10)];
  const first = one.campaign('one');
  await first.wait();
  assert.equal(await two.leader(), 'one');
  const second = two.campaign('two');
  let elected = false;
  const won = second.wait().then(() => (elected = true));
  await first.proclaim('one again');
  assert.equal(await two.leader(), 'one again');
  assert(!elected, 'two lead at once');
  await first.resign();
  await won;
  assert.equal(await one.leader(), 'two');
  await second.resign();
}

async function overLeaderKill(client, other) {
  const lease = client.lease(10);
  let lost;
  lease.on('lost', (error) => (lost = error));
  await lease.put('node/kept').value('x');
  const watcher = await other.watch().prefix('node/over/').create();
  const told = new Set();
  watcher.on('put', (kv) => told.add(kv.key.toString()));
  await client.put('node/over/before').value('x');
  await ask('kill-leader');
  for (let i = 0; i < 5; i++) await again(() => client.put(`node/over/${i}`).value('x'));
  for (const until = Date.now() + 60_000; told.size < 6; await pause(50)) {
    assert(Date.now() < until, `told only of ${[...told]}`);
  }
  // For longer than the lease lives without a renewal.
  await pause(11_000);
  assert.equal(lost, undefined);
  assert.equal(await again(() => other.get('node/kept').string()), 'x');
  await ask('restart');
  await again(() => lease.revoke());
  await watcher.cancel();
}

const scenarios = [keys, compareAndSwap, transactions, paging, listThenWatch, leases, locks, elections];
if (hosts.length > 2) scenarios.push(overLeaderKill);
const wanted = process.argv.slice(3);
for (const scenario of scenarios.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
  const [client, other] = [connect(), connect()];
  try {
    await scenario(client, other);
  } catch (error) {
    console.log(`node: ${scenario.name} failed: ${error.stack}`);
    process.exit(1);
  }
  client.close();
  other.close();
  console.log(`node: ${scenario.name} held`);
}
process.exit(0);
