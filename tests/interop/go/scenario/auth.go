package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// login holds where authentication is on and its tokens live for about three seconds.
func login(ctx context.Context, w *world) error {
	if w.user == "" {
		return nil
	}
	user, role, password := "go-reader", "go-reader", "first"
	if _, err := w.client.UserAdd(ctx, user, password); err != nil {
		return err
	}
	if _, err := w.client.RoleAdd(ctx, role); err != nil {
		return err
	}
	if _, err := w.client.UserGrantRole(ctx, user, role); err != nil {
		return err
	}
	inside := w.prefix + "inside/"
	end := clientv3.GetPrefixRangeEnd(inside)
	if _, err := w.client.RoleGrantPermission(ctx, role, inside, end, clientv3.PermissionType(clientv3.PermRead)); err != nil {
		return err
	}
	if _, err := w.client.Put(ctx, inside+"k", "x"); err != nil {
		return err
	}
	reader := &world{endpoints: w.endpoints, user: user, password: password}
	limited, err := reader.connect()
	if err != nil {
		return err
	}
	defer limited.Close()
	if err := permitted(ctx, limited, inside, w.prefix); err != nil {
		return err
	}
	// Idle for longer than a token lives: the client logs in again.
	time.Sleep(6 * time.Second)
	if _, err := limited.Get(ctx, inside+"k"); err != nil {
		return fmt.Errorf("after its token's life: %w", err)
	}
	if err := changes(ctx, w, limited, inside, end); err != nil {
		return err
	}
	wrong := &world{endpoints: w.endpoints, user: user, password: "wrong"}
	if client, err := wrong.connect(); !errors.Is(err, rpctypes.ErrAuthFailed) {
		if err == nil {
			client.Close()
		}
		return fmt.Errorf("a wrong password: %v", err)
	}
	if _, err := w.client.RoleDelete(ctx, role); err != nil {
		return err
	}
	_, err = w.client.UserDelete(ctx, user)
	return err
}

// permitted reads inside and nowhere else, and writes nowhere.
func permitted(ctx context.Context, limited *clientv3.Client, inside, outside string) error {
	if _, err := limited.Get(ctx, inside, clientv3.WithPrefix()); err != nil {
		return err
	}
	refused := map[string]func() error{
		"a write":            func() error { _, err := limited.Put(ctx, inside+"k", "y"); return err },
		"a delete":           func() error { _, err := limited.Delete(ctx, inside+"k"); return err },
		"a read outside":     func() error { _, err := limited.Get(ctx, outside, clientv3.WithPrefix()); return err },
		"an open-ended read": func() error { _, err := limited.Get(ctx, inside, clientv3.WithFromKey()); return err },
		"a write in a nested transaction": func() error {
			nested := clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpPut(inside+"k", "y")})
			_, err := limited.Txn(ctx).Then(nested).Commit()
			return err
		},
		"a compare outside": func() error {
			_, err := limited.Txn(ctx).If(clientv3.Compare(clientv3.Version(outside), "=", 0)).Commit()
			return err
		},
		"a compaction": func() error { _, err := limited.Compact(ctx, 1); return err },
		"a new user":   func() error { _, err := limited.UserAdd(ctx, "go-other", "x"); return err },
		"a watch outside": func() error {
			told := <-limited.Watch(ctx, outside, clientv3.WithPrefix())
			return told.Err()
		},
	}
	for what, attempt := range refused {
		// A watch is told of it as text.
		if err := attempt(); err == nil || !strings.Contains(err.Error(), "etcdserver: permission denied") {
			return fmt.Errorf("%s: %v", what, err)
		}
	}
	return nil
}

// changes of roles and passwords bind at once, also who is logged in.
func changes(ctx context.Context, w *world, limited *clientv3.Client, inside, end string) error {
	if _, err := w.client.RoleRevokePermission(ctx, "go-reader", inside, end); err != nil {
		return err
	}
	if _, err := limited.Get(ctx, inside+"k"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return fmt.Errorf("a permission that was taken back: %v", err)
	}
	if _, err := w.client.RoleGrantPermission(ctx, "go-reader", inside, end, clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		return err
	}
	if _, err := limited.Put(ctx, inside+"k", "y"); err != nil {
		return err
	}
	if _, err := w.client.UserChangePassword(ctx, "go-reader", "second"); err != nil {
		return err
	}
	renewed := &world{endpoints: w.endpoints, user: "go-reader", password: "second"}
	client, err := renewed.connect()
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Get(ctx, inside+"k")
	return err
}
