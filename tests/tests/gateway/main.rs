//! etcd's services as JSON over HTTP: against a real etcd 3.7.1 answer by answer, and as the clients use
//! them that speak nothing else.

mod asking;
mod differential;
mod etcd3gw;
mod listeners;
mod refusals;
mod routes;
mod side_by_side;
mod streams;
mod websocket;
