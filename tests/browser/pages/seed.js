// Connect to WebSocket
const ws = new WebSocket('ws://localhost:8080/ws?project_id=abc123');

// Handle connection open
ws.onopen = () => {
    console.log('Connected to Cartographer');
};

// Handle incoming messages
ws.onmessage = (event) => {
    const message = JSON.parse(event.data);

    switch (message.type) {
        case 'task.created':
            console.log('New task:', message.data);
            break;
        case 'task.updated':
            console.log('Task updated:', message.data);
            break;
        case 'task.deleted':
            console.log('Task deleted:', message.data);
            break;
        case 'project.updated':
            console.log('Project updated:', message.data);
            break;
        case 'board.updated':
            console.log('Board updated:', message.data);
            break;
        case 'error':
            console.error('Error:', message.error);
            break;
    }
};

// Handle errors
ws.onerror = (error) => {
    console.error('WebSocket error:', error);
};

// Handle close
ws.onclose = () => {
    console.log('Disconnected from Cartographer');
};

// Send ping
setInterval(() => {
    ws.send(JSON.stringify({ type: 'ping', timestamp: new Date() }));
}, 30000);
