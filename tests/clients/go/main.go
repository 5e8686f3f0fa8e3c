// Command go reads what Haltline stores with nats.go, as a Go service would.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var failed bool

func check(name string, test func() error) {
	if err := test(); err != nil {
		failed = true
		fmt.Printf("not ok - %s # %s\n", name, strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	fmt.Printf("ok - %s\n", name)
}

func ask(method, path, body string, into any) error {
	request, err := http.NewRequest(method, os.Getenv("HALTLINE_GATEWAY")+path, bytes.NewBufferString(body))
	if err != nil {
		return err
	}
	request.Header.Set("content-type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode, text)
	}
	return json.Unmarshal(text, into)
}

const definition = `{"id":"go","version":"1","nodes":[
	{"id":"n1","type":"static","params":{"outputs":{"x":"1"}}},
	{"id":"n2","type":"static","params":{"outputs":{"x":"2"}},"depends_on":["n1"]},
	{"id":"n3","type":"static","params":{"outputs":{"x":"3"}},"depends_on":["n2"]}]}`

type event struct {
	Type  string `json:"type"`
	ID    string `json:"id"`
	Count int    `json:"event_count"`
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connection, err := nats.Connect(os.Getenv("HALTLINE_NATS_URL"))
	if err != nil {
		fmt.Println("not ok - connects #", err)
		os.Exit(1)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		fmt.Println("not ok - JetStream #", err)
		os.Exit(1)
	}
	var execution string

	check("lists streams with descriptions", func() error {
		found := map[string]string{}
		lister := js.ListStreams(ctx)
		for info := range lister.Info() {
			found[info.Config.Name] = info.Config.Description
		}
		if lister.Err() != nil {
			return lister.Err()
		}
		for _, name := range []string{"haltline_events", "haltline_tasks", "KV_haltline_executions"} {
			if found[name] == "" {
				return fmt.Errorf("%s is missing or has no description", name)
			}
		}
		return nil
	})
	check("runs a workflow by REST and reads its record", func() error {
		var stored, outcome map[string]any
		if err := ask("PUT", "/v1/workflows/go", definition, &stored); err != nil {
			return err
		}
		if err := ask("POST", "/v1/executions?wait=20s", `{"workflow_id":"go"}`, &outcome); err != nil {
			return err
		}
		execution, _ = outcome["execution_id"].(string)
		bucket, err := js.KeyValue(ctx, "haltline_executions")
		if err != nil {
			return err
		}
		entry, err := bucket.Get(ctx, execution)
		if err != nil {
			return err
		}
		var record struct {
			Status string `json:"status"`
			Nodes  int    `json:"nodes_completed"`
		}
		if err := json.Unmarshal(entry.Value(), &record); err != nil {
			return err
		}
		if record.Status != "completed" || record.Nodes != 3 {
			return fmt.Errorf("the record is %s", entry.Value())
		}
		return nil
	})
	check("reads its 8 events in order", func() error {
		consumer, err := js.OrderedConsumer(ctx, "haltline_events", jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{"haltline.events.*.*." + execution},
		})
		if err != nil {
			return err
		}
		var kinds []string
		ids := map[string]bool{}
		var last event
		for len(kinds) < 8 {
			message, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
			if err != nil {
				return err
			}
			// Events that were told in the same instant share a message, a line each.
			for _, line := range strings.Split(string(message.Data()), "\n") {
				last = event{}
				if err := json.Unmarshal([]byte(line), &last); err != nil {
					return err
				}
				kinds = append(kinds, last.Type)
				ids[last.ID] = true
			}
		}
		want := "execution_started node_started node_completed node_started node_completed node_started node_completed execution_completed"
		if strings.Join(kinds, " ") != want || len(ids) != 8 || last.Count != 8 {
			return fmt.Errorf("%v, %d ids, event_count %d", kinds, len(ids), last.Count)
		}
		return nil
	})

	// The driver counts a part without this line as failed: it broke off.
	fmt.Println("end")
	if failed {
		connection.Close()
		os.Exit(1)
	}
}
