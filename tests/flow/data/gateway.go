// Calls the router as seed 000's gateway does: Go's own HTTP client, the fixed name llm-server:8082, 30 s a call.
// Its argument is where the router really is. Reads calls from standard input, writes what became of each.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

type call struct {
	Method, Path, Field string // Field of the answer must be a text; empty: any object will do
	Body                json.RawMessage
}

type outcome struct {
	Status int
	Text   string
	Error  string
}

func ask(client *http.Client, asked call) (told outcome) {
	var body io.Reader
	if asked.Method == http.MethodPost {
		body = bytes.NewReader(asked.Body)
	}
	request, err := http.NewRequest(asked.Method, "http://llm-server:8082"+asked.Path, body)
	if err != nil {
		return outcome{Error: err.Error()}
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := client.Do(request)
	if err != nil {
		return outcome{Error: err.Error()}
	}
	defer answer.Body.Close()
	told.Status = answer.StatusCode
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		told.Error = err.Error()
		return
	}
	var fields map[string]any
	if err := json.Unmarshal(content, &fields); err != nil {
		told.Error = err.Error()
	} else if told.Status != http.StatusOK {
		told.Error = fmt.Sprint(fields["detail"])
	} else if text, ok := fields[asked.Field].(string); asked.Field != "" && (!ok || text == "") {
		told.Error = "no " + asked.Field
	} else {
		told.Text = text
	}
	return
}

func main() {
	var dialled int32
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		atomic.AddInt32(&dialled, 1)
		return new(net.Dialer).DialContext(ctx, network, os.Args[1])
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: dial}}
	var calls []call
	if err := json.NewDecoder(os.Stdin).Decode(&calls); err != nil {
		panic(err)
	}
	outcomes := make([]outcome, 0, len(calls))
	for _, asked := range calls {
		outcomes = append(outcomes, ask(client, asked))
	}
	told := map[string]any{"Outcomes": outcomes, "Connections": atomic.LoadInt32(&dialled)}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		panic(err)
	}
}
