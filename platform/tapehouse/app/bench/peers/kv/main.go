// The peers of the replicated KV in one program: an etcd server, and the load that etcd and rqlite are given.
//
//	kvpeer etcd ARGUMENTS...        an etcd server, its own command line
//	kvpeer load [FLAGS]             one load on a running cluster; prints one line of JSON
//
// The load is that of redis-benchmark: so many clients on a connection each, so many requests of each under way, random
// keys, values of one size. Every answer is looked at; a wrong one ends the program with 1.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "etcd" {
		etcdmain.Main(append([]string{"etcd"}, os.Args[2:]...))
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "load" {
		if err := load(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	fmt.Fprintln(os.Stderr, "kvpeer etcd ... | kvpeer load ...")
	os.Exit(2)
}

// A peer opens connections to one system.
type peer interface {
	// Fill writes every key once.
	fill(plan *plan) error
	// Connect gives one client: called by one goroutine a lane at a time, each call does one request.
	connect(plan *plan) (client, error)
}

// A client does one request on the given keys and has looked at its answer when it returns.
type client func(keys []string) error

// A plan is one load.
type plan struct {
	endpoints []string
	kind      string // put, or the read level as the peer calls it
	clients   int
	pipeline  int
	keys      int
	value     string
	duration  time.Duration
	requests  int // of each lane; 0: as many as the duration allows
}

func load(arguments []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	name := flags.String("peer", "", "etcd or rqlite")
	endpoints := flags.String("endpoints", "", "host:port of every node, by comma")
	kind := flags.String("kind", "put", "put; etcd: linearizable, serializable; rqlite: none, weak, linearizable, strong; fill")
	clients := flags.Int("clients", 1, "connections")
	pipeline := flags.Int("pipeline", 1, "operations of each under way")
	keys := flags.Int("keys", 100_000, "different keys")
	size := flags.Int("value-bytes", 128, "of a value")
	duration := flags.Duration("duration", 2*time.Second, "how long")
	requests := flags.Int("requests", 0, "operations in all, instead of a duration")
	flags.Parse(arguments)
	plan := &plan{
		endpoints: strings.Split(*endpoints, ","), kind: *kind, clients: *clients, pipeline: *pipeline, keys: *keys,
		value: strings.Repeat("x", *size), duration: *duration,
	}
	var peer peer
	switch *name {
	case "etcd":
		peer = etcdPeer{}
	case "rqlite":
		peer = rqlitePeer{}
	default:
		return fmt.Errorf("no peer %q", *name)
	}
	if *kind == "fill" {
		return peer.fill(plan)
	}
	told, err := peerLoad(peer, plan, *requests)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(told)
}

func key(number int) string {
	return fmt.Sprintf("key:%012d", number)
}
