package main

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const patience = 20 * time.Second

type etcdPeer struct{}

func open(endpoints []string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: patience, Logger: zap.NewNop()})
}

// The leader's endpoint: what a client that knows it spares is a hop.
func leader(endpoints []string) (string, error) {
	client, err := open(endpoints)
	if err != nil {
		return "", err
	}
	defer client.Close()
	for _, each := range endpoints {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		status, err := client.Status(ctx, each)
		cancel()
		if err != nil {
			return "", err
		}
		if status.Leader == status.Header.MemberId {
			return each, nil
		}
	}
	return "", fmt.Errorf("nobody leads %v", endpoints)
}

func (etcdPeer) fill(plan *plan) error {
	client, err := open(plan.endpoints)
	if err != nil {
		return err
	}
	defer client.Close()
	for first := 0; first < plan.keys; first += fillTogether {
		var puts []clientv3.Op
		for number := first; number < min(first+fillTogether, plan.keys); number++ {
			puts = append(puts, clientv3.OpPut(key(number), plan.value))
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := client.Txn(ctx).Then(puts...).Commit()
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (etcdPeer) connect(plan *plan) (client, error) {
	endpoints := plan.endpoints
	if plan.kind != "serializable" {
		first, err := leader(endpoints)
		if err != nil {
			return nil, err
		}
		endpoints = []string{first}
	}
	connection, err := open(endpoints)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if plan.kind == "put" {
		return func(keys []string) error {
			_, err := connection.Put(ctx, keys[0], plan.value)
			return err
		}, nil
	}
	var options []clientv3.OpOption
	switch plan.kind {
	case "linearizable":
	case "serializable":
		options = append(options, clientv3.WithSerializable())
	default:
		return nil, fmt.Errorf("etcd has no read level %q", plan.kind)
	}
	return func(keys []string) error {
		found, err := connection.Get(ctx, keys[0], options...)
		if err != nil {
			return err
		}
		if len(found.Kvs) != 1 || len(found.Kvs[0].Value) != len(plan.value) {
			return fmt.Errorf("%s: not the value that was written", keys[0])
		}
		return nil
	}, nil
}
