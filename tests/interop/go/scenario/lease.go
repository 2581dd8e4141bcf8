package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func leases(ctx context.Context, w *world) error {
	key := w.prefix + "k"
	granted, err := w.client.Grant(ctx, 600)
	if err != nil {
		return err
	}
	if _, err := w.client.Put(ctx, key, "x", clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	left, err := w.other.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	if err := must(left.GrantedTTL == 600 && left.TTL > 500 && len(left.Keys) == 1 && string(left.Keys[0]) == key, "left %v", left); err != nil {
		return err
	}
	renewed, err := w.other.KeepAliveOnce(ctx, granted.ID)
	if err != nil {
		return err
	}
	if err := must(renewed.TTL == 600, "renewed for %d", renewed.TTL); err != nil {
		return err
	}
	if _, err := w.client.Revoke(ctx, granted.ID); err != nil {
		return err
	}
	read, err := w.other.Get(ctx, key)
	if err != nil {
		return err
	}
	if err := must(len(read.Kvs) == 0, "a key outlives its lease"); err != nil {
		return err
	}
	if _, err := w.other.KeepAliveOnce(ctx, granted.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("a revoked lease renewed: %v", err)
	}
	if _, err := w.other.Put(ctx, key, "x", clientv3.WithLease(granted.ID)); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("a revoked lease attached: %v", err)
	}
	return expires(ctx, w)
}

// One that is kept alive stays, one that is not is told to be gone.
func expires(ctx context.Context, w *world) error {
	kept, err := w.client.Grant(ctx, 2)
	if err != nil {
		return err
	}
	left, err := w.client.Grant(ctx, 2)
	if err != nil {
		return err
	}
	renewals, err := w.client.KeepAlive(ctx, kept.ID)
	if err != nil {
		return err
	}
	go func() {
		for range renewals {
		}
	}()
	told := w.other.Watch(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithFilterPut())
	for key, lease := range map[string]clientv3.LeaseID{"kept": kept.ID, "left": left.ID} {
		if _, err := w.client.Put(ctx, w.prefix+key, "", clientv3.WithLease(lease)); err != nil {
			return err
		}
	}
	gone := <-told
	if err := gone.Err(); err != nil {
		return err
	}
	if err := must(string(gone.Events[0].Kv.Key) == w.prefix+"left", "gone: %s", gone.Events[0].Kv.Key); err != nil {
		return err
	}
	read, err := w.other.Get(ctx, w.prefix+"kept")
	if err != nil {
		return err
	}
	if err := must(len(read.Kvs) == 1, "a lease that is kept alive has expired"); err != nil {
		return err
	}
	all, err := w.other.Leases(ctx)
	if err != nil {
		return err
	}
	if err := must(len(all.Leases) > 0, "no lease is listed"); err != nil {
		return err
	}
	_, err = w.client.Revoke(ctx, kept.ID)
	return err
}

func keepAliveOverLeaderKill(ctx context.Context, w *world) error {
	key := w.prefix + "k"
	granted, err := w.client.Grant(ctx, 5)
	if err != nil {
		return err
	}
	renewals, err := w.client.KeepAlive(ctx, granted.ID)
	if err != nil {
		return err
	}
	put, err := w.client.Put(ctx, key, "x", clientv3.WithLease(granted.ID))
	if err != nil {
		return err
	}
	<-renewals
	if err := w.ask("kill-leader"); err != nil {
		return err
	}
	// For longer than it lives without a renewal.
	enough := time.After(8 * time.Second)
	renewed := 0
	for waiting := true; waiting; {
		select {
		case _, open := <-renewals:
			if !open {
				return errors.New("the lease was given up")
			}
			renewed++
		case <-enough:
			waiting = false
		}
	}
	if err := must(renewed >= 2, "renewed %d times", renewed); err != nil {
		return err
	}
	var read *clientv3.GetResponse
	err = again(ctx, func() (err error) {
		read, err = w.other.Get(ctx, key)
		return err
	})
	if err != nil {
		return err
	}
	if err := must(len(read.Kvs) == 1 && read.Kvs[0].CreateRevision == put.Header.Revision, "the leased key is gone"); err != nil {
		return err
	}
	if err := again(ctx, func() error { _, err := w.client.Revoke(ctx, granted.ID); return err }); err != nil {
		return err
	}
	return w.ask("restart")
}
