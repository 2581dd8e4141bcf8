package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func session(client *clientv3.Client) (*concurrency.Session, error) {
	return concurrency.NewSession(client, concurrency.WithTTL(30))
}

// twoSessions are those of two programs; end ends both.
func twoSessions(w *world) (first, second *concurrency.Session, end func(), err error) {
	if first, err = session(w.client); err != nil {
		return nil, nil, nil, err
	}
	if second, err = session(w.other); err != nil {
		first.Close()
		return nil, nil, nil, err
	}
	return first, second, func() { first.Close(); second.Close() }, nil
}

// notYet fails if the second one has what the first one holds.
func notYet(had <-chan error, what string) error {
	select {
	case err := <-had:
		return fmt.Errorf("two %s (%v)", what, err)
	default:
		return nil
	}
}

// Six programs count under one lock, each by reading and writing: a second holder would lose a step.
func mutex(ctx context.Context, w *world) error {
	const holders, turns = 6, 5
	key := w.prefix + "counter"
	if _, err := w.client.Put(ctx, key, "0"); err != nil {
		return err
	}
	turn := func(client *clientv3.Client, lock *concurrency.Mutex) error {
		if err := lock.Lock(ctx); err != nil {
			return err
		}
		read, err := client.Get(ctx, key)
		if err != nil {
			return err
		}
		number, err := strconv.Atoi(string(read.Kvs[0].Value))
		if err != nil {
			return err
		}
		// Fenced: nobody who has lost the lock writes.
		done, err := client.Txn(ctx).If(lock.IsOwner()).Then(clientv3.OpPut(key, strconv.Itoa(number+1))).Commit()
		if err != nil {
			return err
		}
		if err := must(done.Succeeded, "a holder does not own its lock"); err != nil {
			return err
		}
		return lock.Unlock(ctx)
	}
	failures := make([]error, holders)
	var all sync.WaitGroup
	for i := range holders {
		all.Go(func() {
			client := []*clientv3.Client{w.client, w.other}[i%2]
			own, err := session(client)
			if err != nil {
				failures[i] = err
				return
			}
			defer own.Close()
			lock := concurrency.NewMutex(own, w.prefix+"lock")
			for range turns {
				if failures[i] = turn(client, lock); failures[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	read, err := w.other.Get(ctx, key)
	if err != nil {
		return err
	}
	if err := must(string(read.Kvs[0].Value) == strconv.Itoa(holders*turns), "counted to %s", read.Kvs[0].Value); err != nil {
		return err
	}
	return tryLock(ctx, w)
}

func tryLock(ctx context.Context, w *world) error {
	first, second, end, err := twoSessions(w)
	if err != nil {
		return err
	}
	defer end()
	held, tried := concurrency.NewMutex(first, w.prefix+"try"), concurrency.NewMutex(second, w.prefix+"try")
	if err := held.Lock(ctx); err != nil {
		return err
	}
	if err := tried.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		return fmt.Errorf("a held lock was had: %v", err)
	}
	// The end of a session frees what it held.
	if err := first.Close(); err != nil {
		return err
	}
	if err := tried.Lock(ctx); err != nil {
		return err
	}
	return tried.Unlock(ctx)
}

func election(ctx context.Context, w *world) error {
	first, second, end, err := twoSessions(w)
	if err != nil {
		return err
	}
	defer end()
	one, two := concurrency.NewElection(first, w.prefix+"seat"), concurrency.NewElection(second, w.prefix+"seat")
	if err := one.Campaign(ctx, "one"); err != nil {
		return err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	observed := concurrency.NewElection(second, w.prefix+"seat").Observe(watching)
	won := make(chan error, 1)
	go func() { won <- two.Campaign(ctx, "two") }()
	for _, expected := range []string{"one", "one again"} {
		if expected != "one" {
			if err := one.Proclaim(ctx, expected); err != nil {
				return err
			}
		}
		if seen := <-observed; string(seen.Kvs[0].Value) != expected {
			return fmt.Errorf("observed %s, not %s", seen.Kvs[0].Value, expected)
		}
	}
	if err := notYet(won, "lead at once"); err != nil {
		return err
	}
	if err := one.Resign(ctx); err != nil {
		return err
	}
	if err := <-won; err != nil {
		return err
	}
	leads, err := one.Leader(ctx)
	if err != nil {
		return err
	}
	if err := must(string(leads.Kvs[0].Value) == "two", "%s leads", leads.Kvs[0].Value); err != nil {
		return err
	}
	if err := one.Proclaim(ctx, "late"); !errors.Is(err, concurrency.ErrElectionNotLeader) {
		return fmt.Errorf("who resigned proclaims: %v", err)
	}
	return two.Resign(ctx)
}

// Money moves between accounts under every isolation; its sum does not change.
func stm(ctx context.Context, w *world) error {
	// It reads on at the first read's revision wherever it asks next, and a follower may not have that yet.
	alone := &world{endpoints: w.endpoints[:1], user: w.user, password: w.password}
	single, err := alone.connect()
	if err != nil {
		return err
	}
	defer single.Close()
	const accounts, movers, moves = 5, 4, 15
	account := func(i int) string { return fmt.Sprintf("%s%d", w.prefix, i) }
	for i := range accounts {
		if _, err := w.client.Put(ctx, account(i), "100"); err != nil {
			return err
		}
	}
	move := func(client *clientv3.Client, from, to string, isolation concurrency.Isolation) error {
		_, err := concurrency.NewSTM(client, func(state concurrency.STM) error {
			source, err := strconv.Atoi(state.Get(from))
			if err != nil {
				return err
			}
			target, err := strconv.Atoi(state.Get(to))
			if err != nil {
				return err
			}
			amount := source / 2
			state.Put(from, strconv.Itoa(source-amount))
			state.Put(to, strconv.Itoa(target+amount))
			return nil
		}, concurrency.WithIsolation(isolation), concurrency.WithAbortContext(ctx))
		return err
	}
	isolations := []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads}
	failures := make([]error, movers)
	var all sync.WaitGroup
	for mover := range movers {
		all.Go(func() {
			client := single
			for i := range moves {
				from := (mover + i) % accounts
				to := (from + 1 + i%(accounts-1)) % accounts
				if failures[mover] = move(client, account(from), account(to), isolations[i%len(isolations)]); failures[mover] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	read, err := w.other.Get(ctx, w.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	sum := 0
	for _, kv := range read.Kvs {
		amount, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			return err
		}
		sum += amount
	}
	return must(sum == 100*accounts, "the sum is %d", sum)
}

func mutexOverLeaderKill(ctx context.Context, w *world) error {
	first, second, end, err := twoSessions(w)
	if err != nil {
		return err
	}
	defer end()
	held, wanted := concurrency.NewMutex(first, w.prefix+"lock"), concurrency.NewMutex(second, w.prefix+"lock")
	if err := held.Lock(ctx); err != nil {
		return err
	}
	had := make(chan error, 1)
	go func() { had <- again(ctx, func() error { return wanted.Lock(ctx) }) }()
	if err := w.ask("kill-leader"); err != nil {
		return err
	}
	var owned *clientv3.TxnResponse
	err = again(ctx, func() (err error) {
		owned, err = w.client.Txn(ctx).If(held.IsOwner()).Commit()
		return err
	})
	if err != nil {
		return err
	}
	if err := must(owned.Succeeded, "the lock was lost with the leader"); err != nil {
		return err
	}
	if err := notYet(had, "hold the lock"); err != nil {
		return err
	}
	if err := again(ctx, func() error { return held.Unlock(ctx) }); err != nil {
		return err
	}
	if err := <-had; err != nil {
		return err
	}
	if err := w.ask("restart"); err != nil {
		return err
	}
	return again(ctx, func() error { return wanted.Unlock(ctx) })
}

func electionOverLeaderKill(ctx context.Context, w *world) error {
	first, second, end, err := twoSessions(w)
	if err != nil {
		return err
	}
	defer end()
	one, two := concurrency.NewElection(first, w.prefix+"seat"), concurrency.NewElection(second, w.prefix+"seat")
	if err := one.Campaign(ctx, "one"); err != nil {
		return err
	}
	won := make(chan error, 1)
	go func() { won <- again(ctx, func() error { return two.Campaign(ctx, "two") }) }()
	if err := w.ask("kill-leader"); err != nil {
		return err
	}
	if err := again(ctx, func() error { return one.Proclaim(ctx, "still one") }); err != nil {
		return err
	}
	if err := notYet(won, "lead at once"); err != nil {
		return err
	}
	if err := again(ctx, func() error { return one.Resign(ctx) }); err != nil {
		return err
	}
	if err := <-won; err != nil {
		return err
	}
	return w.ask("restart")
}
