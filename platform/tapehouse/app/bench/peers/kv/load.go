package main

import (
	"errors"
	"math/rand"
	"sort"
	"sync"
	"time"
)

const fillTogether = 100 // keys in one request while a cluster is filled

// What a load gave; latencies are of single requests.
type told struct {
	Operations int     `json:"operations"`
	Seconds    float64 `json:"seconds"`
	P50        int64   `json:"p50"`
	P99        int64   `json:"p99"`
	P999       int64   `json:"p999"`
}

// A lane does one request after another; latencies are kept whole.
type lane struct {
	ask       client
	random    *rand.Rand
	together  int // keys in one request
	latencies []time.Duration
	err       error
}

// peerLoad runs a load. rqlite takes the requests of a pipeline as one of many statements, etcd as many on one connection.
func peerLoad(peer peer, plan *plan, requests int) (*told, error) {
	var lanes []*lane
	together, beside := 1, plan.pipeline
	if _, bulk := peer.(rqlitePeer); bulk {
		together, beside = plan.pipeline, 1
	}
	for number := 0; number < plan.clients; number++ {
		ask, err := peer.connect(plan)
		if err != nil {
			return nil, err
		}
		for each := 0; each < beside; each++ {
			random := rand.New(rand.NewSource(int64(len(lanes) + 1)))
			lanes = append(lanes, &lane{ask: ask, random: random, together: together})
		}
	}
	if requests > 0 {
		plan.requests = max(1, requests/(len(lanes)*together))
	}
	every(lanes, func(lane *lane) { lane.once(plan) }) // connections are made, nothing of it counts
	for _, lane := range lanes {
		lane.latencies = lane.latencies[:0]
	}
	begun := time.Now()
	every(lanes, func(lane *lane) {
		for lane.err == nil {
			if plan.requests > 0 && len(lane.latencies) >= plan.requests {
				return
			}
			if plan.requests == 0 && time.Since(begun) >= plan.duration {
				return
			}
			lane.once(plan)
		}
	})
	seconds := time.Since(begun).Seconds()
	var all []time.Duration
	for _, lane := range lanes {
		if lane.err != nil {
			return nil, lane.err
		}
		all = append(all, lane.latencies...)
	}
	if len(all) == 0 {
		return nil, errors.New("no request was answered")
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	at := func(fraction float64) int64 { return int64(all[min(len(all)-1, int(fraction*float64(len(all))))]) }
	return &told{
		Operations: len(all) * together, Seconds: seconds, P50: at(0.5), P99: at(0.99), P999: at(0.999),
	}, nil
}

func every(lanes []*lane, work func(*lane)) {
	var group sync.WaitGroup
	for _, each := range lanes {
		group.Add(1)
		go func() {
			defer group.Done()
			work(each)
		}()
	}
	group.Wait()
}

func (lane *lane) once(plan *plan) {
	keys := make([]string, lane.together)
	for at := range keys {
		keys[at] = key(lane.random.Intn(plan.keys))
	}
	begun := time.Now()
	lane.err = lane.ask(keys)
	lane.latencies = append(lane.latencies, time.Since(begun))
}
